"""The namespace of notebooks: code in the manner of well-known courses runs as it stands.

Snippets are run as a notebook runs them, after `from clearloop.notebook import *` and nothing else.
"""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from nbclient import NotebookClient
from PIL import Image

import clearloop
from clearloop import notebook
from clearloop.data.sample import URLs


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


@pytest.fixture(autouse=True)
def _paths_shown_whole():
    yield
    if hasattr(Path, "BASE_PATH"):
        del Path.BASE_PATH


def run(code, **given):
    """The names that a notebook has after `code`; `given` are there before it."""
    space = {}
    exec("from clearloop.notebook import *", space)
    space.update(given)
    exec(code, space)
    return space


@pytest.fixture(scope="module")
def stacks(sample):
    """The pictures of the sample, float32 in [0, 1] of shape (n, 28, 28), read from their files as a course does."""
    code = """
    def stacked(part, digit):
        files = (folder/part/digit).ls().sorted()
        return torch.stack([tensor(Image.open(o)) for o in files]).float()/255
    threes, sevens = stacked('train', '3'), stacked('train', '7')
    held_threes, held_sevens = stacked('valid', '3'), stacked('valid', '7')
    """
    space = run(code.replace("\n    ", "\n"), folder=sample)
    return {name: space[name] for name in ("threes", "sevens", "held_threes", "held_sevens")}


@pytest.fixture(scope="module")
def pairs(stacks):
    """Lists of (pixels, label) as a course makes them: label 1 for a three, 0 for a seven."""
    code = """
train_x = torch.cat([threes, sevens]).view(-1, 28*28)
train_y = tensor([1]*len(threes) + [0]*len(sevens)).unsqueeze(1)
valid_x = torch.cat([held_threes, held_sevens]).view(-1, 28*28)
valid_y = tensor([1]*len(held_threes) + [0]*len(held_sevens)).unsqueeze(1)
train_pairs, valid_pairs = list(zip(train_x, train_y)), list(zip(valid_x, valid_y))
"""
    space = run(code, **stacks)
    return {name: space[name] for name in ("train_pairs", "valid_pairs")}


# -- names ------------------------------------------------------------------------------------------------------------


def test_every_public_name_is_there_and_the_very_same():
    space = run("")
    assert set(clearloop.__all__) <= set(notebook.__all__)
    assert all(space[name] is getattr(clearloop, name) for name in clearloop.__all__)


def test_the_list_of_names_has_none_twice_and_all_exist():
    assert len(notebook.__all__) == len(set(notebook.__all__))
    assert all(hasattr(notebook, name) for name in notebook.__all__)
    assert not set(notebook.__all__) & set(dir(builtins))


COURSE_NAMES = """
    torch nn F np plt Path L optim Image pd string matplotlib mpl tensor array first test_near gv graph partial math
    to_np show_image plot_function untar_data URLs get_data SGD Adam DataLoader DataLoaders Learner get_dls fit
"""


def test_the_names_that_courses_use_are_there():
    assert set(COURSE_NAMES.split()) <= set(run(""))


def test_names_mean_what_they_mean_in_courses():
    code = """
assert F.relu is nn.functional.relu and optim.SGD is SGD is torch.optim.SGD
assert matplotlib is mpl and matplotlib.pyplot is plt and np.array is array
assert Image.open and pd.DataFrame and string.ascii_lowercase.startswith('abc')
assert Path('a')/'b' == Path('a/b') and math.pi > 3 and partial(max, 3)(2) == 3
"""
    run(code)


def test_only_the_notebook_changes_paths_and_it_forces_no_backend_on_matplotlib():
    code = (
        "import sys, clearloop\n"
        "[getattr(clearloop, name) for name in clearloop.__all__]\n"
        "from pathlib import Path\n"
        "assert not hasattr(Path, 'ls') and not {'fastcore', 'pandas', 'matplotlib.pyplot'} & set(sys.modules)\n"
        "from clearloop.notebook import *\n"
        "assert Path.ls and plt.get_backend() == 'svg' and 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "MPLBACKEND": "svg"})


def test_without_the_extra_the_import_says_what_to_install():
    code = (
        "import sys\n"
        "from clearloop.errors import ConfigError\n"
        "for package in ('fastcore', 'jinja2', 'pandas'):\n"
        "    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split('.')[0] == package}\n"
        "    sys.modules[package] = None\n"
        "    try:\n"
        "        import clearloop.notebook\n"
        "    except ConfigError as error:\n"
        "        print(error)\n"
        "    del sys.modules[package]\n"
        "    sys.modules.update(kept)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for package, line in zip(("fastcore", "jinja2", "pandas"), lines, strict=True):
        assert line.startswith("clearloop.notebook needs more packages (")
        assert package in line
        assert line.endswith(': pip install "clearloop[notebook]"')


# -- paths ------------------------------------------------------------------------------------------------------------


def test_paths_list_what_they_hold_and_show_themselves_below_the_base(sample):
    code = """
folder = untar_data(URLs.MNIST_SAMPLE)
Path.BASE_PATH = folder
inside = folder.ls().sorted()
threes = (folder/'train'/'3').ls().sorted()
"""
    space = run(code)
    assert space["folder"] == sample
    assert repr(space["folder"]) == "Path('.')"
    assert isinstance(space["threes"], notebook.L)
    assert repr(space["inside"]) == "[Path('labels.csv'), Path('train'), Path('valid')]"
    assert [repr(path) for path in space["threes"][:2]] == ["Path('train/3/10.png')", "Path('train/3/10000.png')"]
    assert len(space["threes"]) == 6131


def test_all_of_mnist_is_known_by_its_name():
    assert run("name = URLs.MNIST")["name"] == URLs.MNIST != URLs.MNIST_SAMPLE


# -- pictures and numbers ---------------------------------------------------------------------------------------------


def test_a_picture_is_shown_as_array_tensor_and_shaded_table(sample):
    code = """
picture = Image.open((folder/'train'/'3').ls().sorted()[1])
numbers, pixels = array(picture)[4:10, 4:10], tensor(picture)[4:10, 4:10]
table = pd.DataFrame(tensor(picture)[4:15, 4:22])
html = table.style.set_properties(**{'font-size': '6pt'}).background_gradient('Greys').to_html()
"""
    space = run(code, folder=sample)
    assert type(space["numbers"]) is np.ndarray
    assert type(space["pixels"]) is torch.Tensor
    assert (space["numbers"].dtype, space["pixels"].dtype) == (np.uint8, torch.uint8)
    assert space["pixels"][3].tolist() == space["numbers"][3].tolist() == [0, 93, 244, 249, 253, 187]
    assert space["table"].shape == (11, 18)
    assert "font-size: 6pt" in space["html"]
    assert "background-color: #000000" in space["html"]  # the darkest shade is there
    assert ">253<" in space["html"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (3.0, torch.tensor(3.0)),
        (3, torch.tensor(3)),
        (True, torch.tensor(True)),
        ([1, 2, 3], torch.tensor([1, 2, 3])),
        ([[1, 2, 3], [4, 5, 6.5]], torch.tensor([[1, 2, 3], [4, 5, 6.5]])),
        ([3.0, 4.0, 10.0], torch.tensor([3.0, 4.0, 10.0])),
        ((1, 2), torch.tensor([1, 2])),
        (range(3), torch.tensor([0, 1, 2])),
        (notebook.L(range(3)), torch.tensor([0, 1, 2])),
        ([torch.tensor(1.0), torch.tensor(2.0)], torch.tensor([1.0, 2.0])),
        ((torch.ones(2, requires_grad=True), torch.zeros(2)), torch.tensor([[1.0, 1.0], [0.0, 0.0]])),
        ([torch.tensor(1.0), 2.0], torch.tensor([1.0, 2.0])),
        ([np.float64(1.5), np.float64(2.5)], torch.tensor([1.5, 2.5])),
        ([1j, 2], torch.tensor([1j, 2])),
        (np.array([1.5, 2.5]), torch.tensor([1.5, 2.5])),
        (np.float64(1.5), torch.tensor(1.5)),
        ([np.array([1, 2]), np.array([3, 4])], torch.tensor([[1, 2], [3, 4]])),
        (np.array([1, 2], np.uint8), torch.tensor([1, 2], dtype=torch.uint8)),
        (np.array([[1.0, 2.0], [3.0, 4.0]]).T, torch.tensor([[1.0, 3.0], [2.0, 4.0]])),
        (np.array([1.0, 2.0, 3.0])[::-1], torch.tensor([3.0, 2.0, 1.0])),
        (np.array([True, False]), torch.tensor([True, False])),
        (pd.DataFrame({"a": [1, 2], "b": [3, 4]}), torch.tensor([[1, 3], [2, 4]])),
        (pd.Series([1.5, 2.5]), torch.tensor([1.5, 2.5])),
        (Image.new("RGB", (3, 2), (1, 2, 3)), torch.tensor([1, 2, 3], dtype=torch.uint8).expand(2, 3, 3)),
        ([], torch.tensor([])),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_tensor_is_made_of_anything_that_holds_numbers(data, expected):
    made = notebook.tensor(data)
    assert type(made) is torch.Tensor
    assert made.dtype == expected.dtype
    assert torch.equal(made, expected)


def test_a_tensor_of_an_array_has_memory_of_its_own():
    numbers = np.ones(3, np.float32)
    made = notebook.tensor(numbers)
    made[0] = 5
    assert numbers[0] == 1


def test_a_tensor_takes_several_numbers_and_options():
    assert notebook.tensor(3.0, 4.0, 10.0).tolist() == [3, 4, 10]
    assert notebook.tensor(np.ones(2), dtype=torch.float64).dtype == torch.float64
    assert notebook.tensor([1, 2], dtype=torch.float32, requires_grad=True).requires_grad
    there = torch.ones(2, dtype=torch.float64)
    assert notebook.tensor(there) is there
    assert notebook.tensor(there, dtype=torch.int64).tolist() == [1, 1]
    followed = notebook.tensor(there, requires_grad=True)
    assert followed.requires_grad
    assert followed.is_leaf
    assert not there.requires_grad


def test_the_default_type_of_torch_decides_what_floats_become():
    torch.set_default_dtype(torch.float64)
    try:
        assert notebook.tensor(np.ones(2)).dtype == torch.float64
        assert notebook.tensor([0.1]).item() == 0.1
    finally:
        torch.set_default_dtype(torch.float32)


def test_derivatives_are_those_of_the_textbook():
    code = """
def total(x): return (x**2).sum()
one = tensor(3.).requires_grad_()
total(one).backward()
three = tensor([3., 4., 10.]).requires_grad_()
total(three).backward()
"""
    space = run(code)
    assert space["one"].grad.item() == 6
    assert space["three"].grad.tolist() == [6, 8, 20]


def test_nearly_equal_values_pass_and_others_fail():
    notebook.test_near(torch.tensor([1.0, 2.0], requires_grad=True), np.array([1.0005, 2.0]))
    notebook.test_near(torch.tensor(1e-6), 0)
    notebook.test_near(torch.ones(3, dtype=torch.bfloat16), 1)
    for a, b in [(1.0, 1.01), (0.0, 1e-4), ([1.0, 2.0], [1.0, 2.1]), (float("nan"), float("nan"))]:
        with pytest.raises(AssertionError):
            notebook.test_near(a, b)
    with pytest.raises(AssertionError):
        notebook.test_near(torch.ones(2), torch.ones(3))


def test_a_curve_is_drawn_and_points_added_to_it():
    code = """
plot_function(lambda t: t**2, 't', 't**2')
plt.scatter(-1.5, 2.25, color='red')
plot_function(torch.sigmoid, title='Sigmoid', min=-4, max=4)
plot_function(F.relu)
"""
    run(code)
    parabola, sigmoid, _ = (plt.figure(number).gca() for number in plt.get_fignums())
    assert len(parabola.lines) == len(parabola.collections) == 1
    assert (sigmoid.get_title(), sigmoid.lines[0].get_xdata()[-1]) == ("Sigmoid", 4)


def test_gradient_descent_is_shown_in_four_panels():
    code = """
torch.manual_seed(0)
moments = torch.arange(0, 20).float()
speeds = torch.randn(20)*3 + 0.75*(moments - 9.5)**2 + 1
def curve(t, weights):
    a, b, c = weights
    return a*(t**2) + b*t + c
weights, losses = torch.randn(3).requires_grad_(), []
def one_step():
    loss = F.mse_loss(curve(moments, weights), speeds).sqrt()
    loss.backward()
    weights.data -= 1e-5*weights.grad.data
    weights.grad = None
    losses.append(loss.item())
    return curve(moments, weights)
_, panels = plt.subplots(1, 4, figsize=(12, 3))
for panel in panels:
    panel.scatter(moments, speeds)
    panel.scatter(moments, to_np(one_step()), color='red')
plt.tight_layout()
"""
    losses = run(code)["losses"]
    assert len(losses) == 4
    assert losses == sorted(losses, reverse=True)


def test_graphs_of_text_and_of_a_loss_can_be_shown():
    code = """
steps = gv('''start->predict->loss->gradient->step->stop; step->predict[label=again]''')
model = nn.Linear(2, 1)
drawn = graph(model(torch.ones(1, 2)).sum(), params=dict(model.named_parameters()))
"""
    space = run(code)
    assert space["steps"]._repr_svg_().count("predict") >= 1
    assert "weight" in space["drawn"]._repr_svg_()


# -- loaders ----------------------------------------------------------------------------------------------------------


def test_fifteen_numbers_come_in_batches_of_five():
    code = """
plain = list(DataLoader(range(15), batch_size=5))
mixed = list(DataLoader(range(15), batch_size=5, shuffle=True))
"""
    space = run(code)
    assert [batch.tolist() for batch in space["plain"]] == [[*range(5)], [*range(5, 10)], [*range(10, 15)]]
    assert [len(batch) for batch in space["mixed"]] == [5, 5, 5]
    assert sorted(torch.cat(space["mixed"]).tolist()) == [*range(15)]
    assert torch.cat(space["mixed"]).tolist() != [*range(15)]


@pytest.mark.parametrize(
    "collection",
    [
        "L(enumerate(string.ascii_lowercase))",
        "list(enumerate(string.ascii_lowercase))",
        "tuple(enumerate(string.ascii_lowercase))",
        "L(zip(range(26), string.ascii_lowercase))",
    ],
)
def test_numbers_and_letters_become_tensors_and_tuples(collection):
    batches = run(f"batches = list(DataLoader({collection}, batch_size=6, shuffle=True))")["batches"]
    assert [len(letters) for _, letters in batches] == [6, 6, 6, 6, 2]
    assert all(type(batch) is type(letters) is tuple for batch in batches for letters in batch[1:])
    assert all(type(numbers) is torch.Tensor and numbers.dtype == torch.int64 for numbers, _ in batches)
    found = [
        (int(number), letter) for numbers, letters in batches for number, letter in zip(numbers, letters, strict=True)
    ]
    assert sorted(found) == list(enumerate("abcdefghijklmnopqrstuvwxyz"))
    assert found != sorted(found)


def test_letters_alone_stay_letters():
    batches = run("batches = list(DataLoader(string.ascii_lowercase, batch_size=6))")["batches"]
    assert batches[0] == tuple("abcdef")
    assert batches[-1] == ("y", "z")


def test_pairs_of_tensors_are_stacked(pairs):
    code = "xb, yb = first(DataLoader(train_pairs, batch_size=256))"
    space = run(code, **pairs)
    assert (space["xb"].shape, space["yb"].shape) == ((256, 784), (256, 1))
    assert torch.equal(space["xb"][7], pairs["train_pairs"][7][0])
    assert set(space["yb"].flatten().tolist()) == {1}


# -- lessons ----------------------------------------------------------------------------------------------------------


def test_the_second_threes_distances_to_the_mean_images_are_the_known_ones(stacks):
    code = """
mean_three, mean_seven = threes.mean(0), sevens.mean(0)
second = threes[1]
distances = [((second - mean).abs().mean(), ((second - mean)**2).mean().sqrt()) for mean in (mean_three, mean_seven)]
by_torch = [(F.l1_loss(second, mean), F.mse_loss(second, mean).sqrt()) for mean in (mean_three, mean_seven)]
"""
    space = run(code, **stacks)
    for found in (space["distances"], space["by_torch"]):
        assert [[round(float(distance), 4) for distance in row] for row in found] == [
            [0.1114, 0.2021],
            [0.1586, 0.3021],
        ]


def test_the_mean_image_baseline_has_the_known_accuracy(stacks):
    code = """
mean_three, mean_seven = threes.mean(0), sevens.mean(0)
def distance(a, b): return (a - b).abs().mean((-1, -2))
def is_three(x): return distance(x, mean_three) < distance(x, mean_seven)
on_threes, on_sevens = is_three(held_threes).float().mean(), (1 - is_three(held_sevens).float()).mean()
figures = [on_threes.item(), on_sevens.item(), ((on_threes + on_sevens)/2).item()]
"""
    space = run(code, **stacks)
    assert [round(figure, 4) for figure in space["figures"]] == [0.9168, 0.9854, 0.9511]


OWN_PARTS = """
def mnist_loss(preds, targets):
    preds = preds.sigmoid()
    return torch.where(targets==1, 1-preds, preds).mean()
def batch_accuracy(preds, targets):
    return ((preds.sigmoid() > 0.5) == targets).float().mean()
loader, held = DataLoader(train_pairs, batch_size=256, shuffle=True), DataLoader(valid_pairs, batch_size=256)
"""


def test_weights_by_hand_learn_threes_and_sevens(pairs):
    code = """
torch.manual_seed(1)
def drawn(size): return torch.randn(size).requires_grad_()
weights, bias = drawn((28*28, 1)), drawn(1)
def linear(xb): return xb@weights + bias
def accuracy_now():
    return torch.stack([batch_accuracy(linear(xb), yb) for xb, yb in held]).mean().item()
before = accuracy_now()
for epoch in range(3):
    for xb, yb in loader:
        mnist_loss(linear(xb), yb).backward()
        for p in (weights, bias):
            p.data -= p.grad*1.
            p.grad.zero_()
after = accuracy_now()
"""
    space = run(OWN_PARTS + code, **pairs)
    assert space["after"] > 0.9 > space["before"]


def test_the_optimizer_works_alone_by_position_and_as_the_hand_made_one_does(pairs):
    code = """
class OwnOptimizer:
    def __init__(self, params, lr): self.params, self.lr = list(params), lr
    def step(self):
        for p in self.params: p.data.add_(p.grad.data, alpha=-self.lr)
    def zero_grad(self):
        for p in self.params: p.grad = None
ended = []
for kind in (OwnOptimizer, SGD):
    torch.manual_seed(0)
    model = nn.Linear(28*28, 1)
    opt = kind(model.parameters(), 1.)
    for xb, yb in DataLoader(train_pairs, 256, seed=0):
        mnist_loss(model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
    ended.append(model.weight)
"""
    first, second = run(OWN_PARTS + code, **pairs)["ended"]
    assert torch.equal(first, second)


def test_the_learner_trains_the_linear_model_and_its_records_can_be_plotted(pairs, capsys):
    code = """
torch.manual_seed(42)
dls = DataLoaders(loader, held)
learn = Learner(dls, nn.Linear(28*28, 1), opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
learn.fit(4, lr=1.)
final = learn.recorder.values[-1][2]
plt.plot(L(learn.recorder.values).itemgot(2));
net = nn.Sequential(nn.Linear(28*28, 30), nn.ReLU(), nn.Linear(30, 1))
other = Learner(dls, net, opt_func=SGD, loss_func=mnist_loss, metrics=batch_accuracy)
other.fit(1, 0.1)
"""
    space = run(OWN_PARTS + code, **pairs)
    values = space["learn"].recorder.values
    assert len(values) == 4
    assert [len(row) for row in values] == [3] * 4  # training loss, validation loss, the metric
    assert space["final"] > 0.97
    assert plt.gca().lines[0].get_ydata().tolist() == [row[2] for row in values]
    assert len(space["other"].recorder.values) == 1
    assert "batch_accuracy" in capsys.readouterr().out


def test_mini_batch_training_from_nothing_runs_as_it_stands():
    code = """
x_train, y_train, x_valid, y_valid = get_data()
n, m = x_train.shape
c, nh = y_train.max() + 1, 50
class Model(nn.Module):
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__()
        self.l1, self.l2 = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)
    def forward(self, x): return self.l2(self.l1(x).clamp_min(0.))
def log_softmax(x): return x - x.logsumexp(-1, keepdim=True)
def nll(inp, target): return -inp[range(target.shape[0]), target].mean()
def accuracy(out, yb): return (out.argmax(dim=1) == yb).float().mean()
torch.manual_seed(3)
model, bs, lr = Model(m, nh, c), 64, 0.5
preds = model(x_train[:1000])
at_start = nll(log_softmax(preds), y_train[:1000])
test_near(at_start, F.cross_entropy(preds, y_train[:1000]))
class Dataset:
    def __init__(self, x, y): self.x, self.y = x, y
    def __len__(self): return len(self.x)
    def __getitem__(self, i): return self.x[i], self.y[i]
few, held = Dataset(x_train[:5000], y_train[:5000]), TensorDataset(x_valid[:2000], y_valid[:2000])
assert len(few) == 5000
xb, yb = few[0:5]
assert xb.shape == (5, 28*28) and yb.tolist() == [5, 0, 4, 1, 9]
opt = optim.SGD(model.parameters(), lr=lr)
for epoch in range(2):
    model.train()
    for xb, yb in DataLoader(few, bs, shuffle=True):
        F.cross_entropy(model(xb), yb).backward()
        opt.step()
        opt.zero_grad()
model.eval()
with torch.no_grad():
    reached = accuracy(model(held.tensors[0]), held.tensors[1])
rows = fit(1, model, F.cross_entropy, opt, DataLoader(few, bs, shuffle=True), DataLoader(held, bs*2))
train_dl, valid_dl = get_dls(few, held, bs)
"""
    space = run(code)
    assert abs(space["at_start"].item() - 2.303) < 0.1
    assert space["reached"] > 0.8
    assert len(space["rows"]) == 1
    assert len(first := list(space["valid_dl"])) == 16
    assert len(first[0][0]) == 128


def test_the_steps_of_the_nn_tutorial_run_as_they_stand(capsys):
    code = """
x_train, y_train, x_valid, y_valid = get_data()
x_train, y_train, x_valid, y_valid = map(tensor, (x_train[:2000], y_train[:2000], x_valid[:500], y_valid[:500]))
weights = torch.randn(784, 10)/math.sqrt(784)
weights.requires_grad_()
bias = torch.zeros(10, requires_grad=True)
bs = 64
for i in range((len(x_train) - 1)//bs + 1):
    xb, yb = x_train[i*bs:i*bs + bs], y_train[i*bs:i*bs + bs]
    loss = F.cross_entropy(xb@weights + bias, yb)
    loss.backward()
    with torch.no_grad():
        weights -= weights.grad*0.5
        bias -= bias.grad*0.5
        weights.grad.zero_()
        bias.grad.zero_()
class Lambda(nn.Module):
    def __init__(self, func):
        super().__init__()
        self.func = func
    def forward(self, x): return self.func(x)
model = nn.Sequential(
    Lambda(lambda x: x.view(-1, 1, 28, 28)),
    nn.Conv2d(1, 8, kernel_size=3, stride=2, padding=1), nn.ReLU(),
    nn.Conv2d(8, 10, kernel_size=3, stride=2, padding=1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), Lambda(lambda x: x.view(x.size(0), -1)))
opt = optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
class WrappedDataLoader:
    def __init__(self, dl, func): self.dl, self.func = dl, func
    def __len__(self): return len(self.dl)
    def __iter__(self):
        for b in iter(self.dl): yield self.func(*b)
def on_device(x, y): return x.to('cpu'), y.to('cpu')
train_dl = WrappedDataLoader(DataLoader(TensorDataset(x_train, y_train), batch_size=bs, shuffle=True), on_device)
valid_dl = WrappedDataLoader(DataLoader(TensorDataset(x_valid, y_valid), batch_size=bs*2), on_device)
def loss_batch(model, loss_func, xb, yb, opt=None):
    loss = loss_func(model(xb), yb)
    if opt is not None:
        loss.backward(); opt.step(); opt.zero_grad()
    return loss.item(), len(xb)
rows = fit(2, model, F.cross_entropy, opt, train_dl, valid_dl)
with torch.no_grad():
    losses, nums = zip(*[loss_batch(model, F.cross_entropy, xb, yb) for xb, yb in valid_dl])
by_hand = np.sum(np.multiply(losses, nums))/np.sum(nums)
"""
    space = run(code)
    assert space["loss"] < 1.5
    assert abs(space["rows"][-1][1] - space["by_hand"]) < 1e-6
    assert capsys.readouterr().out.count("valid_loss") == 2


def test_modules_registered_by_hand_are_what_torch_registers():
    code = """
class OwnModule:
    def __init__(self, n_in, nh, n_out):
        self._modules = {}
        self.l1, self.l2 = nn.Linear(n_in, nh), nn.Linear(nh, n_out)
    def __setattr__(self, k, v):
        if not k.startswith('_'): self._modules[k] = v
        super().__setattr__(k, v)
    def parameters(self):
        for layer in self._modules.values(): yield from layer.parameters()
shapes = [tuple(o.shape) for o in OwnModule(784, 50, 10).parameters()]
"""
    assert run(code)["shapes"] == [(50, 784), (50,), (10, 50), (10,)]


# -- in a real notebook -----------------------------------------------------------------------------------------------


def test_a_notebook_shows_lists_in_brief_pictures_and_tables(sample):
    sources = [
        "from clearloop.notebook import *\nPath.BASE_PATH = untar_data(URLs.MNIST_SAMPLE)",
        "(Path.BASE_PATH/'train'/'3').ls().sorted()",
        "L(1, 2)",
        "show_image(tensor(Image.open(Path.BASE_PATH/'train/3/10.png')), title='three');",
        "plot_function(lambda x: x**2, 'x', 'x**2')\nplt.scatter(-1.5, 2.25, color='red');",
        "pd.DataFrame(torch.eye(3)).style.background_gradient('Greys')",
        "gv('''a->b''')",
        "graph(torch.ones(1, requires_grad=True).sum())",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])
    NotebookClient(book, timeout=120, kernel_name="python3").execute()
    shown = [[output.get("data", {}) for output in cell.outputs] for cell in book.cells]
    assert shown[0] == []
    text = shown[1][0]["text/plain"]
    assert text.startswith("(#6131) [Path('train/3/10.png'), Path('train/3/10000.png'), Path('train/3/10011.png'), ")
    assert text.count("Path") == 10
    assert text.endswith(", …]")
    assert shown[2][0]["text/plain"] == "(#2) [1, 2]"
    assert [sorted(data) for data in shown[3] + shown[4]] == [["image/png", "text/plain"]] * 2
    assert "<table" in shown[5][0]["text/html"]
    assert "image/svg+xml" in shown[6][0]
    assert "image/svg+xml" in shown[7][0]
