from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor

from farm.errors import FarmError, InvalidInput, RenderError
from farm.jobs.losses import BUILTIN, Argument, LossDeclaration
from farm.jobs.spec import ResolvedLossTerm
from worker.diffusion.losses import Loss, Losses, WeightedLoss, load_losses


@pytest.fixture(scope="module")
def losses() -> Losses:
    return load_losses(plugins=[])


def evaluate(losses: Losses, name: str, images: Tensor, arguments: Mapping[str, float] | None = None) -> Tensor:
    return losses.term(ResolvedLossTerm(name=name, arguments=dict(arguments or {}), scale=1)).evaluate(images)


def flat(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue], dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, 4, 4).clone()


def split(left: float, right: float) -> Tensor:
    """Gray, 4×4, the left half and the right half."""
    return torch.tensor([left, left, right, right], dtype=torch.float32).expand(1, 3, 4, 4).clone()


BY_HAND: list[tuple[str, dict[str, float], Tensor, float]] = [
    ("blue", {}, flat(0, 0, 0.4), 0.5),
    ("blue", {"target": 0.2}, flat(1, 1, 0.4), 0.2),
    ("color", {"red": 1, "green": 0, "blue": 0.5}, flat(0.7, 0.3, 0.5), 0.2),
    ("brightness", {"target": 1}, flat(1, 0, 0), 0.701),
    ("brightness", {"target": 0}, flat(0, 1, 0), 0.587),
    ("contrast", {"target": 0.5}, split(0, 1), 0.0),
    ("contrast", {"target": 0.5}, split(0.25, 0.75), 0.25),
    ("saturation", {"target": 0.6}, flat(0.9, 0.1, 0.5), 0.2),
    ("symmetry", {}, split(0.2, 0.8), 0.6),
    ("symmetry", {"horizontal": 0, "vertical": 1}, split(0.2, 0.8), 0.0),
    ("symmetry", {"horizontal": 0.5, "vertical": 1}, split(0.2, 0.8).transpose(2, 3), 0.6),
    ("sharpness", {"target": 0}, split(0.2, 0.8), 0.1),
    ("sharpness", {"target": 0.3}, split(0.2, 0.8), 0.2),
]


@pytest.mark.parametrize(("name", "arguments", "images", "expected"), BY_HAND)
def test_values_computed_by_hand(
    losses: Losses, name: str, arguments: dict[str, float], images: Tensor, expected: float
) -> None:
    assert evaluate(losses, name, images, arguments).item() == pytest.approx(expected, abs=1e-6)


def test_blue_is_the_seeds(losses: Losses) -> None:
    images = torch.rand(1, 3, 8, 8)
    seeds = torch.abs(images[:, 2] - 0.9).mean()
    torch.testing.assert_close(evaluate(losses, "blue", images)[0], seeds)


@pytest.mark.parametrize("name", [declaration.name for declaration in BUILTIN])
def test_every_image_has_its_own_value(losses: Losses, name: str) -> None:
    images = torch.rand(3, 3, 8, 8)
    together = evaluate(losses, name, images)
    assert together.shape == (3,)
    for k in range(3):
        torch.testing.assert_close(evaluate(losses, name, images[k : k + 1])[0], together[k])


@pytest.mark.parametrize("name", [declaration.name for declaration in BUILTIN])
def test_gradients_equal_finite_differences(losses: Losses, name: str) -> None:
    images = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    images.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: evaluate(losses, name, x), (images,), eps=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", [declaration.name for declaration in BUILTIN])
def test_a_flat_picture_has_a_finite_gradient(losses: Losses, name: str) -> None:
    images = flat(0.5, 0.5, 0.5).requires_grad_()
    (gradient,) = torch.autograd.grad(evaluate(losses, name, images).sum(), images)
    assert gradient.isfinite().all()


def test_arguments_are_checked_again(losses: Losses) -> None:
    with pytest.raises(InvalidInput, match=r"'target' of loss 'blue' is 3, outside 0 to 1"):
        losses.term(ResolvedLossTerm(name="blue", arguments={"target": 3}, scale=1))
    with pytest.raises(InvalidInput, match=r"there is no loss 'blu'.*did you mean 'blue'"):
        losses.term(ResolvedLossTerm(name="blu", scale=1))


class Greenness:
    """A third party's loss."""

    declaration = LossDeclaration("green", "little green", (Argument("gain", 1, 0, 9, "factor"),), 10.0)

    def __call__(self, images: Tensor, *, gain: float) -> Tensor:
        return gain * images[:, 1].mean(dim=(1, 2))


class TakenName(Greenness):
    declaration = LossDeclaration("blue", "another blue", (), 1.0)


green, taken, no_loss = Greenness(), TakenName(), object()


def plugin(name: str, module: str = __name__) -> EntryPoint:
    return EntryPoint(name=name, value=f"{module}:{name}", group="farm.losses")


def test_a_plugin_joins_the_built_in_losses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: green)
    losses = load_losses([plugin("green")])
    assert losses.declarations == (*BUILTIN, green.declaration)
    value = evaluate(losses, "green", flat(0, 0.5, 0), {"gain": 4})
    assert value.item() == pytest.approx(2)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [(taken, "the name 'blue' is taken"), (no_loss, "it is not a callable with a LossDeclaration")],
)
def test_an_unfit_plugin_is_named(monkeypatch: pytest.MonkeyPatch, loaded: object, message: str) -> None:
    monkeypatch.setattr(EntryPoint, "load", lambda _: loaded)
    with pytest.raises(FarmError, match=f"loss plugin 'mine' .* cannot be used: {message}"):
        load_losses([plugin("mine")])


def test_a_plugin_that_cannot_be_imported_is_named() -> None:
    with pytest.raises(FarmError, match=r"the loss plugin 'mine' .* cannot be used: ModuleNotFoundError"):
        load_losses([plugin("mine", module="no_such_module")])


class Failing(Greenness):
    def __call__(self, images: Tensor, *, gain: float) -> Tensor:
        raise ZeroDivisionError(f"{gain} of {len(images)}")


class Scalar(Greenness):
    def __call__(self, images: Tensor, *, gain: float) -> Tensor:
        return gain * images.mean()


@pytest.mark.parametrize(
    ("loss", "message"),
    [(Failing(), "the loss 'green' failed: 1 of 1"), (Scalar(), "does not return one value for each image")],
)
def test_a_loss_that_fails_is_a_render_error(loss: Loss, message: str) -> None:
    with pytest.raises(RenderError, match=message) as caught:
        WeightedLoss(loss, {"gain": 1}, 1.0).evaluate(flat(0, 0, 0))
    assert caught.value.kind == "loss"
