"""Named states to a directory and back: everything comes home as what it was, and nothing is ever executed."""

import collections
import math
import pickle
import random
import warnings
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors import torch as tensor_files

from clearloop import durable, packing, rng
from clearloop.errors import CheckpointError

torch.set_num_threads(1)

STORABLE = [getattr(torch, name) for name in packing._STORABLE]
OTHERS = sorted({value for value in vars(torch).values() if isinstance(value, torch.dtype)} - set(STORABLE), key=str)


def same(a, b):
    """Equal in type and to the bit, whatever the nesting; the order of keys too."""
    if type(a) is not type(b):
        return False
    if isinstance(a, torch.Tensor):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and octets(a) == octets(b)
    if isinstance(a, (np.ndarray, np.generic)):
        return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(same(*pair) for pair in zip(a, b, strict=True))
    if isinstance(a, dict):
        return same(list(a), list(b)) and same(list(a.values()), list(b.values()))
    if isinstance(a, float):
        return a.hex() == b.hex()
    return a == b


def octets(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""


@st.composite
def tensors(draw):
    dtype = draw(st.sampled_from(STORABLE))
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    size = math.prod(shape) * dtype.itemsize
    raw = draw(st.binary(min_size=size, max_size=size))
    if dtype is torch.bool:
        raw = bytes(byte & 1 for byte in raw)
    if not raw:
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=dtype).reshape(shape)


def arrays():
    kinds = (
        hnp.boolean_dtypes()
        | hnp.integer_dtypes()
        | hnp.unsigned_integer_dtypes()
        | hnp.floating_dtypes(sizes=(32, 64))
    )
    return hnp.arrays(kinds, hnp.array_shapes(min_dims=0, min_side=0, max_side=3))


tags = st.sampled_from(["~tuple", "~float", "~tensor", "~numpy", "~dict", "~", "", "a.b", "a", "__metadata__", "a'"])
texts = st.text() | tags
plain = st.none() | st.booleans() | st.integers() | st.floats() | texts
hashable = st.recursive(plain, lambda inner: st.lists(inner, max_size=2).map(tuple), max_leaves=3)
leaves = (
    plain
    | tensors()
    | arrays()
    | st.sampled_from([np.float32(1.5), np.int64(-3), np.bool_(True), np.float64("nan"), np.uint8(7), np.complex64(1j)])
    | st.sampled_from([*STORABLE, torch.complex128, torch.device("cpu"), torch.device("cuda:1"), torch.device("meta")])
)
trees = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(texts, inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=4),
        st.dictionaries(hashable, inner, max_size=4).map(OrderedDict),
        st.dictionaries(hashable, inner, max_size=4).map(Counter),
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(tree=trees)
def test_unpack_is_the_exact_inverse_of_pack_through_the_bytes_of_both_files(tree):
    skeleton, flat = packing.pack(tree)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in flat.values())
    assert same(packing.unpack(skeleton, flat), tree)
    skeleton = durable.loads_strict(durable.dumps_strict(skeleton))
    flat = tensor_files.load(tensor_files.save(flat))
    assert same(packing.unpack(skeleton, flat), tree)


@settings(max_examples=25, deadline=None)
@given(states=st.dictionaries(st.sampled_from(["model", "optim", "rng", "extra_1"]), trees))
def test_load_returns_what_was_saved(states, tmp_path_factory):
    target = tmp_path_factory.mktemp("saved") / "step"
    packing.save(target, states)
    assert same(packing.load(target), states)


def test_equal_states_make_equal_bytes(tmp_path):
    for name in ("a", "b"):
        model = torch.nn.Linear(3, 2)
        torch.nn.init.ones_(model.weight)
        torch.nn.init.zeros_(model.bias)
        packing.save(tmp_path / name, {"model": model.state_dict(), "best": Counter(a=1)})
    assert durable.read_directory(tmp_path / "a") == durable.read_directory(tmp_path / "b")


def test_a_run_goes_on_to_the_bit_from_saved_model_optimizer_schedule_and_random_states(tmp_path):
    def build():
        model = torch.nn.Sequential(
            torch.nn.Linear(4, 8), torch.nn.BatchNorm1d(8), torch.nn.Dropout(), torch.nn.Linear(8, 2)
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5, 5])

    def train(model, optimizer, schedule, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            model(torch.randn(16, 4)).square().mean().backward()
            optimizer.step()
            schedule.step()

    with rng.preserved():
        rng.seed_all(1)
        run = build()
        train(*run, 4)
        random.gauss(0, 1), np.random.standard_normal()  # each caches a second value
        states = {name: part.state_dict() for name, part in zip(("model", "optim", "schedule"), run, strict=True)}
        packing.save(tmp_path / "step", {**states, "rng": rng.capture()})
        train(*run, 4)
        expected = run[0].state_dict(), random.gauss(0, 1), np.random.standard_normal()
        loaded = packing.load(tmp_path / "step")
        resumed = build()
        for name, part in zip(("model", "optim", "schedule"), resumed, strict=True):
            part.load_state_dict(loaded[name])
        rng.restore(loaded["rng"])
        train(*resumed, 4)
        assert same((resumed[0].state_dict(), random.gauss(0, 1), np.random.standard_normal()), expected)


# --- tensors


def test_tied_weights_are_stored_once_and_come_back_tied():
    model = torch.nn.Sequential(torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False))
    model[1].weight = model[0].weight
    skeleton, flat = packing.pack({"model": model.state_dict(), "again": model[0].weight})
    assert len(flat) == 1
    loaded = packing.unpack(skeleton, flat)
    assert loaded["model"]["0.weight"] is loaded["model"]["1.weight"] is loaded["again"]


def test_views_that_are_not_the_same_are_stored_apart():
    base = torch.arange(16.0).reshape(4, 4)
    z = torch.tensor([1 + 2j, 3 - 4j])
    tree = {
        "base": base,
        "transposed": base.t(),
        "flat": base.view(-1),
        "row": base[0],
        "expanded": base[:, :1].expand(4, 5),
        "bits": base.view(torch.int32),
        "z": z,
        "conjugate": z.conj(),
        "imaginary": z.imag,
        "negative": z.conj().imag,
        "none": base[:0],
        "nothing": base[:0],
    }
    skeleton, flat = packing.pack(tree)
    assert list(flat) == list(tree)
    loaded = packing.unpack(skeleton, tensor_files.load(tensor_files.save(flat)))
    for name, tensor in tree.items():
        assert torch.equal(loaded[name], tensor), name
    loaded["none"].resize_(1)
    assert loaded["nothing"].numel() == 0


def test_lazy_conjugates_and_negatives_are_stored_as_they_look():
    for tensor in (torch.tensor([1 + 2j, 3 - 4j]).conj(), torch._neg_view(torch.tensor([1.0, 2.0]))):
        skeleton, flat = packing.pack(tensor)
        assert torch.equal(packing.unpack(skeleton, tensor_files.load(tensor_files.save(flat))), tensor)


def test_parameters_are_detached_and_awkward_names_kept_apart(tmp_path):
    ones = torch.nn.Parameter(torch.ones(1))
    tree = {"a.b": ones, "a": {"b": torch.zeros(1)}, "a.b'": torch.full((1,), 2.0), "\udcff": torch.full((1,), 3.0)}
    packing.save(tmp_path / "step", {"model": tree})
    assert not packing.pack(tree)[1]["a.b"].requires_grad
    loaded = packing.load(tmp_path / "step")["model"]
    assert [loaded["a.b"].item(), loaded["a"]["b"].item(), loaded["a.b'"].item(), loaded["\udcff"].item()] == [
        1,
        0,
        2,
        3,
    ]


def test_loaded_tensors_can_be_written_without_touching_each_other(tmp_path):
    packing.save(tmp_path / "step", {"model": {"a": torch.zeros(3), "b": torch.zeros(3), "c": np.zeros(3)}})
    model = packing.load(tmp_path / "step")["model"]
    model["a"].add_(1)
    model["c"] += 2
    assert model["b"].tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", STORABLE, ids=str)
def test_every_type_that_safetensors_holds_comes_back(dtype, tmp_path):
    tree = {
        "matrix": torch.ones(2, 3).to(dtype),
        "scalar": torch.ones(()).to(dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
    }
    packing.save(tmp_path / "step", {"model": tree})
    assert same(packing.load(tmp_path / "step")["model"], tree)


@pytest.mark.parametrize("dtype", OTHERS, ids=str)
def test_every_other_type_is_refused_with_its_name_and_place(dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are experimental
        try:
            tensor = torch.empty(2, dtype=dtype)
        except (RuntimeError, NotImplementedError):
            pytest.skip("torch cannot make such a tensor")
    with pytest.raises(CheckpointError, match=rf"{str(dtype).removeprefix('torch.')}.* at layers\.0"):
        packing.pack({"layers": [tensor]})


@pytest.mark.parametrize(
    "tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta"), torch.nn.UninitializedParameter()], ids=str
)
def test_tensors_without_plain_memory_are_refused(tensor):
    with pytest.raises(CheckpointError, match="at weight; convert it or leave it out"):
        packing.pack({"weight": tensor})


def test_big_endian_zero_dimensional_and_reversed_arrays_come_back():
    for array in (np.arange(3, dtype=">f8"), np.array(5), np.arange(4)[::-1], np.asfortranarray(np.ones((2, 3)))):
        assert same(packing.unpack(*packing.pack(array)), array)
        assert isinstance(packing.unpack(*packing.pack(array)), np.ndarray)


# --- what is refused


Point = collections.namedtuple("Point", "x y")


class Flag(int):
    pass


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (b"bytes", "builtins.bytes"),
        ({1, 2}, "builtins.set"),
        (Point(1, 2), "Point"),
        (Flag(1), "Flag"),
        (collections.defaultdict(int), "collections.defaultdict"),
        (torch.Size([1]), "torch.Size"),
        (np.array(["a"]), "numpy.ndarray"),
        (np.array([None]), "numpy.ndarray"),
        (np.longdouble(1), "numpy.longdouble"),
        (np.datetime64("2020-01-01"), "numpy.datetime64"),
        (np.ma.masked_array([1]), "MaskedArray"),
        (test_equal_states_make_equal_bytes, "builtins.function"),
        (torch.Generator(), "torch.*Generator"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
def test_an_unknown_type_is_refused_with_its_place_and_nothing_is_written(value, name, tmp_path):
    with pytest.raises(CheckpointError, match=rf"state 'optim': .*got .*{name} at groups\.1\.lr; "):
        packing.save(tmp_path / "step", {"optim": {"groups": [0, {"lr": value}]}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "skeleton",
    [
        {"~tensor": "missing"},
        {"~tensor": []},
        {"~unknown": 1},
        {"~dtype": "load"},
        {"~dtype": 5},
        {"~device": "nowhere"},
        {"~float": "1.5x"},
        {"~dict": [[[], 1]]},
        {"~dict": 5},
        {"~counter": [[1]]},
        {"~tuple": None},
        {"~numpy": ["weight"]},
        {"~numpy": ["weight", "no such type", True]},
        {"~numpy": 5},
    ],
    ids=str,
)
def test_a_crafted_skeleton_is_a_checkpoint_error(skeleton, tmp_path):
    files = {"model.safetensors": tensor_files.save({"weight": torch.ones(2)})}
    durable.write_directory(tmp_path / "a", {**files, "state.json": durable.dumps_strict({"model": skeleton})})
    with pytest.raises(CheckpointError, match="expected states as save writes them"):
        packing.load(tmp_path / "a")


@pytest.mark.parametrize("state", [b"[]", b"5", b"", b"{", b'{"a": NaN}', b'{"a": ' + b"[" * 100_000])
def test_a_crafted_state_file_is_a_checkpoint_error(state, tmp_path):
    durable.write_directory(tmp_path / "a", {"state.json": state})
    with pytest.raises(CheckpointError):
        packing.load(tmp_path / "a")
    durable.write_directory(tmp_path / "b", {})
    with pytest.raises(CheckpointError, match=r"state\.json"):
        packing.load(tmp_path / "b")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_a_pickle_is_never_loaded_listed_or_not(tmp_path):
    sentinel = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(sentinel))
    state = durable.dumps_strict({"model": {"weight": {"~tensor": "weight"}}})
    for name in ("model.safetensors", "model.pt", "rng.safetensors"):
        durable.write_directory(tmp_path / name, {name: bomb, "state.json": state})
        with pytest.raises(CheckpointError, match="expected states as save writes them"):
            packing.load(tmp_path / name)
    torch.save(Bomb(sentinel), tmp_path / "archive")
    durable.write_directory(
        tmp_path / "z", {"model.safetensors": (tmp_path / "archive").read_bytes(), "state.json": state}
    )
    packing.save(tmp_path / "good", {"model": {"weight": torch.ones(1)}})
    (tmp_path / "good" / "model.pkl").write_bytes(bomb)
    for name in ("z", "good"):
        with pytest.raises(CheckpointError):
            packing.load(tmp_path / name)
    assert not sentinel.exists()
    pickle.loads(bomb).close()  # the bomb does work
    assert sentinel.exists()


def test_damage_in_any_saved_file_is_noticed(tmp_path):
    packing.save(tmp_path / "step", {"model": torch.nn.Linear(3, 2).state_dict(), "best": {"loss": 0.1}})
    generator = random.Random(0)
    for path in sorted((tmp_path / "step").iterdir()):
        good = path.read_bytes()
        for bit in generator.sample(range(len(good) * 8), 60):
            damaged = bytearray(good)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            with pytest.raises(CheckpointError, match=str(path.parent)):
                packing.load(tmp_path / "step")
        path.write_bytes(good)
    packing.load(tmp_path / "step")


@pytest.mark.parametrize("dtype", [dtype for dtype in STORABLE if dtype.is_floating_point or dtype.is_complex], ids=str)
def test_the_first_tensor_that_is_not_finite_is_named(dtype):
    good = torch.ones(3).to(dtype)
    bad = torch.tensor([1.0, torch.nan, 1.0]).to(dtype)
    assert packing.first_nonfinite({"a": good, "count": torch.ones(2, dtype=torch.int64)}) is None
    assert packing.first_nonfinite({"a": good, "b": bad, "c": bad}) == "b"
    if dtype in (torch.float32, torch.bfloat16, torch.complex64):
        assert packing.first_nonfinite({"a": -good / 0}) == "a"
