"""What an autoencoder keeps: reconstructions beside originals, and codes in two dimensions, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

import clearloop as cl
from clearloop import interpret, models
from clearloop.data.normalize import Normalize
from clearloop.errors import ConfigError, DataError, ModelError
from clearloop.picture_plots import pixels
from clearloop.reconstruct import in_two_dimensions


def coder(code: int = 3, labels: bool = False, n: int = 40, **options: Any) -> cl.Learner:
    """An autoencoder of pictures of 4 x 6, not trained; its targets are the pictures, or labels."""
    torch.manual_seed(0)
    x = torch.rand(n, 24)
    data = cl.TensorDataset(x, torch.arange(n) % 3 if labels else x)
    dls = cl.DataLoaders(cl.DataLoader(data, 8, shuffle=True, seed=0), cl.DataLoader(data, 16), image_size=(4, 6))
    return cl.Learner(dls, models.autoencoder(24, 8, code), options.get("loss_func", F.mse_loss), seed=0, device="cpu")


def sum_of_squares(preds: Tensor, labels: Tensor) -> Tensor:
    return preds.square().mean()


def test_reconstructions_are_what_the_model_makes_of_the_pictures():
    learn = coder()
    found = cl.reconstructions(learn, n=18)
    preds, targets = learn.get_preds()
    preds, targets = preds[found.rows], targets[found.rows]
    assert found.rows == sorted(set(found.rows))
    torch.testing.assert_close(found.reconstructions, preds.view(18, 1, 4, 6))
    assert torch.equal(found.originals, targets.view(18, 1, 4, 6))
    torch.testing.assert_close(found.errors, (preds - targets).double().square().mean(dim=1))
    drawn = [axes for axes in found.figure.axes if axes.images]
    assert len(drawn) == 36
    assert np.allclose(drawn[0].images[0].get_array(), pixels(found.originals[0]))
    assert np.allclose(drawn[1].images[0].get_array(), pixels(found.reconstructions[0].clamp(0, 1)))
    assert float(found.reconstructions[0].min()) < 0  # which is drawn as black
    assert [axes.get_ylabel() for axes in drawn[:2]] == ["original", "reconstructed"]


def test_a_model_that_gives_its_code_too_gives_the_reconstruction_first():
    learn = coder()
    inner = learn.model

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = inner.encoder, inner.decoder

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            code = self.encoder(x)
            return self.decoder(code), code

    both = cl.Learner(learn.dls, Both(), lambda preds, targets: F.mse_loss(preds[0], targets), device="cpu")
    torch.testing.assert_close(cl.reconstructions(both).reconstructions, cl.reconstructions(learn).reconstructions)


def test_normalised_pictures_come_out_as_they_were_and_errors_are_the_models():
    raw = torch.randint(0, 256, (8, 4, 6)).byte()
    normalize = Normalize([0.3], [0.2])
    data = cl.TensorDataset(raw, torch.zeros(8).long(), transform=normalize)
    loader = cl.DataLoader(data, 8)
    dls = cl.DataLoaders(loader, loader, image_size=(4, 6), normalize=normalize)
    learn = cl.Learner(dls, models.autoencoder(24, 3), sum_of_squares, device="cpu")
    found = cl.reconstructions(learn, n=8)
    preds, _ = learn.get_preds()
    torch.testing.assert_close(found.originals, raw[:, None].float() / 255)
    torch.testing.assert_close(found.reconstructions, preds.view(8, 1, 4, 6) * 0.2 + 0.3)
    inputs, _ = next(iter(loader))
    torch.testing.assert_close(found.errors, (preds - inputs.flatten(1)).double().square().mean(dim=1))


def test_a_model_of_another_task_has_no_reconstructions():
    with pytest.raises(ModelError, match="a reconstruction of each picture"):
        cl.reconstructions(learner_of(models.linear(24, 3)))
    with pytest.raises(ModelError, match=r"encoder and a decoder, as models\.autoencoder has them, got a Sequential"):
        cl.embedding(learner_of(models.linear(24, 3)))


def learner_of(model: nn.Module) -> cl.Learner:
    return cl.Learner(coder(labels=True).dls, model, F.cross_entropy, device="cpu")


def test_two_dimensions_are_the_principal_components_of_scikit_learn():
    codes = torch.randn(200, 5) @ torch.randn(5, 5) + 3
    points, explained = in_two_dimensions(codes)
    reference = PCA(2).fit(codes.numpy())
    expected = reference.transform(codes.numpy())
    signs = np.sign((points.numpy() * expected).sum(axis=0))
    np.testing.assert_allclose(points.numpy() * signs, expected, rtol=1e-4, atol=1e-4)
    assert explained == pytest.approx(tuple(reference.explained_variance_ratio_.tolist()), rel=1e-4)


@pytest.mark.parametrize("length", [1, 2])
def test_short_codes_are_taken_as_they_are(length):
    codes = torch.randn(30, length)
    points, explained = in_two_dimensions(codes)
    assert torch.equal(points[:, :length], codes.double())
    assert sum(explained) == pytest.approx(1)


def test_codes_that_are_all_the_same_have_a_place():
    points, explained = in_two_dimensions(torch.ones(5, 4))
    assert torch.equal(points, torch.zeros(5, 2, dtype=torch.float64))
    assert explained == (0.0, 0.0)


def test_an_embedding_has_the_codes_of_the_encoder_and_the_labels_of_the_targets():
    learn = coder(labels=True, loss_func=sum_of_squares)
    found = cl.embedding(learn)
    x, labels = learn.dls.valid.dataset.tensors
    with torch.no_grad():
        torch.testing.assert_close(found.codes, learn.model.encoder(x))
    assert torch.equal(found.labels, labels)
    legend = [text.get_text() for text in found.figure.legends[0].get_texts()]
    assert legend == ["0", "1", "2"]


def test_labels_that_are_stored_with_the_pictures_colour_them(digits):
    dls = cl.DataLoaders.mnist(64, targets="inputs", seed=0)
    learn = cl.Learner(dls, models.autoencoder(784, 3), F.mse_loss, seed=0, device="cpu")
    found = cl.embedding(learn)
    assert torch.equal(found.labels, digits.train_labels[50_000:])
    assert cl.embedding(learn, dls.train).labels is None  # in another order than they are stored


def test_labels_and_names_can_be_given_and_need_not_be_there():
    learn = coder()
    assert cl.embedding(learn).labels is None
    found = cl.embedding(learn, labels=[i % 2 for i in range(40)], classes=["left", "right"])
    assert found.labels.tolist() == [0, 1] * 20
    assert [text.get_text() for text in found.figure.axes[0].texts] == ["left", "right"]
    with pytest.raises(DataError, match=r"a class number from 0 on for each of 40 samples, got \(3,\) int64"):
        cl.embedding(learn, labels=[0, 1, 2])
    with pytest.raises(DataError, match="class number"):
        cl.embedding(learn, labels=torch.full((40,), -1))


def test_a_convolutional_autoencoder_is_shown_as_well():
    x = torch.rand(12, 1, 12, 12)
    loader = cl.DataLoader(cl.TensorDataset(x, x), 8)
    model = models.conv_autoencoder(code=3, widths=(4, 8), size=12)
    learn = cl.Learner(
        (loader, loader), model, lambda preds, targets: F.mse_loss(preds.view_as(targets), targets), device="cpu"
    )
    assert cl.reconstructions(learn, n=3).reconstructions.shape == (3, 1, 12, 12)
    assert cl.embedding(learn).codes.shape == (12, 3)


def test_each_class_has_a_look_of_its_own():
    learn = coder(n=60)
    found = cl.embedding(learn, labels=torch.arange(60) % 20)
    groups = [c for c in found.figure.axes[0].collections if len(c.get_offsets())]
    colours = {tuple(group.get_facecolor()[0][:3]) for group in groups[:10]}
    assert len(groups) == 20
    assert len(colours) == 10


@pytest.mark.parametrize("look", [cl.reconstructions, cl.embedding])
def test_training_goes_on_to_the_same_bits_and_the_figure_is_the_same_each_time(look):
    plain, looked = coder(), coder()
    first = look(looked)._repr_png_()
    assert look(looked)._repr_png_() == first
    for learn in (plain, looked):
        learn.fit(1, 0.1, quiet=True)
    look(looked)
    for learn in (plain, looked):
        learn.fit(1, 0.1, quiet=True)
    assert plain.history.losses == looked.history.losses


@pytest.mark.parametrize("n", [1, 10, 11, 40])
def test_nothing_is_cut_off(n):
    learn = coder()
    figures = [cl.reconstructions(learn, n=n).figure]
    if n == 1:
        names = ["great spotted woodpecker"] * 30
        figures += [cl.embedding(learn, labels=torch.arange(40) % 30, classes=names).figure, cl.embedding(learn).figure]
    for figure in figures:
        figure.draw_without_rendering()
        for part in (*figure.axes, *figure.texts, *figure.legends):
            box = part.get_tightbbox(figure.canvas.get_renderer())
            assert min(box.x0, box.y0) > -1
            assert box.x1 < figure.bbox.x1 + 1
            assert box.y1 < figure.bbox.y1 + 1


def test_plots_of_an_autoencoder_are_written(tmp_path):
    written = [path.stem for path in interpret.write_plots(coder(), tmp_path)]
    assert written == ["embedding", "reconstructions", "batch", "model"]


def test_bad_arguments_are_named():
    with pytest.raises(ConfigError, match="whole number from 1 to 64, got 0"):
        cl.reconstructions(coder(), n=0)
    learn = coder()
    learn.dls.valid = None
    for look in (cl.reconstructions, cl.embedding):
        with pytest.raises(DataError, match="no validation set"):
            look(learn)
