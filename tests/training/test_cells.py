"""The cells in NumPy compute what torch computes, forwards and backwards through time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from training import cells
from training.network import Layer, random_network

KINDS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
STEPS, INPUTS, H = 23, 5, 7


def layer(cell: str, projection: int = 0) -> Layer:
    """In float64."""
    (drawn,) = random_network(INPUTS, H, 1, 1, seed=2, cell=cell).layers
    rng = np.random.default_rng(0)
    wide = {
        "w": drawn.w.astype(float) * 2,
        "r": drawn.r.astype(float) * 2,
        "b": drawn.b.astype(float),
        "rb": None if drawn.rb is None else drawn.rb.astype(float),
    }
    if projection:
        wide["project"] = rng.normal(size=(projection, H))
        wide["r"] = rng.normal(size=(4 * H, projection))
    return replace(drawn, **wide)  # type: ignore[arg-type]


def in_torch(plain: Layer) -> nn.RNNBase:
    more = {} if plain.project is None else {"proj_size": plain.width}
    made: nn.RNNBase = KINDS[plain.cell](INPUTS, H, batch_first=True, **more).double()
    zeros = np.zeros_like(plain.b)
    values = {
        "weight_ih_l0": plain.w,
        "weight_hh_l0": plain.r,
        "bias_ih_l0": plain.b,
        "bias_hh_l0": zeros if plain.rb is None else plain.rb,
    }
    if plain.project is not None:
        values["weight_hr_l0"] = plain.project
    made.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
    return made


def drawn(plain: Layer) -> tuple[np.ndarray, cells.State]:
    """An input [T, I] and a state that are not zero."""
    rng = np.random.default_rng(1)
    state = tuple(rng.normal(size=width) * 0.5 for _, width in plain.states)
    return rng.normal(size=(STEPS, INPUTS)), state


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("plain", [layer("lstm"), layer("lstm", 3), layer("gru"), layer("rnn")],
                         ids=["lstm", "projected", "gru", "rnn"])  # fmt: skip
def test_a_step_is_torch_s(plain: Layer) -> None:
    x, state = drawn(plain)
    given = tuple(torch.from_numpy(each)[None, None] for each in state)
    with torch.no_grad():
        expected, _ = in_torch(plain)(
            torch.from_numpy(x)[None], given if plain.cell == "lstm" else given[0]
        )
    for t in range(STEPS):
        state = cells.step(plain, x[t], state)
        np.testing.assert_allclose(state[0], expected[0, t].numpy(), rtol=0, atol=1e-12)


def loss_weights(plain: Layer) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """The loss is the sum of h * these over all steps, and of the last state * the others: so the
    error comes in at every step and also from behind."""
    rng = np.random.default_rng(3)
    return (
        rng.normal(size=(STEPS, plain.width)),
        tuple(rng.normal(size=width) for _, width in plain.states),
    )


def torch_gradients(plain: Layer) -> dict[str, np.ndarray]:
    """By torch's autograd, of steps written out, so that it knows each state's as well."""
    x, state = drawn(plain)
    errors, after = loss_weights(plain)
    kept = {"x": torch.tensor(x, requires_grad=True)}
    for name in ("w", "r", "b", "project"):
        if getattr(plain, name) is not None:
            kept[name] = torch.tensor(getattr(plain, name), requires_grad=True)
    now = [torch.tensor(each, requires_grad=True) for each in state]
    states, loss = [now], torch.zeros((), dtype=torch.float64)
    for t in range(STEPS):
        now = torch_step(plain, kept, kept["x"][t], now)
        for each in now:
            each.retain_grad()
        states.append(now)
        loss = loss + (now[0] * torch.from_numpy(errors[t])).sum()
    loss = loss + sum((a * torch.from_numpy(b)).sum() for a, b in zip(now, after, strict=True))
    torch.autograd.backward(loss)
    by_state = {
        name: np.stack([gradient(each[k]) for each in states])
        for k, (name, _) in enumerate(plain.states)
    }
    return {name: gradient(each) for name, each in kept.items()} | by_state


def gradient(of: Tensor) -> np.ndarray:
    assert of.grad is not None
    return of.grad.numpy()


def torch_step(
    plain: Layer, kept: dict[str, Tensor], x: Tensor, state: list[Tensor]
) -> list[Tensor]:
    sums = kept["w"] @ x + kept["r"] @ state[0] + kept["b"]
    if plain.cell == "rnn":
        return [torch.tanh(sums)]
    i, f, g, o = sums.chunk(4)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return [kept["project"] @ h if "project" in kept else h, c]


@pytest.mark.parametrize("plain", [layer("lstm"), layer("lstm", 3)], ids=["plain", "projected"])
def test_the_lstm_s_gradients_by_hand_are_autograd_s(plain: Layer) -> None:
    errors, after = loss_weights(plain)
    trace = cells.lstm_forward(plain, *drawn(plain))
    found = cells.lstm_backward(plain, trace, errors, after)
    expected = torch_gradients(plain)
    assert set(expected) >= {"x", "w", "r", "b", "h", "c"}
    for name, theirs in expected.items():
        np.testing.assert_allclose(getattr(found, name), theirs, rtol=1e-6, atol=1e-9)
        assert np.abs(theirs).max() > 0.1, "nothing was compared"


def test_the_rnn_s_gradients_by_hand_are_autograd_s() -> None:
    plain = layer("rnn")
    errors, after = loss_weights(plain)
    x, state = drawn(plain)
    h = cells.rnn_forward(plain, x, state)
    found = cells.rnn_backward(plain, x, h, errors, after)
    for name, theirs in torch_gradients(plain).items():
        np.testing.assert_allclose(getattr(found, name), theirs, rtol=1e-6, atol=1e-9)


def test_the_gradients_by_hand_are_those_of_torch_s_own_lstm() -> None:
    plain = layer("lstm")
    errors, (last_h, last_c) = loss_weights(plain)
    x, (h, c) = drawn(plain)
    module, given = in_torch(plain), torch.tensor(x, requires_grad=True)
    out, (after_h, after_c) = module(
        given[None], (torch.from_numpy(h)[None, None], torch.from_numpy(c)[None, None])
    )
    loss = (out[0] * torch.from_numpy(errors)).sum()
    loss = loss + (after_h * torch.from_numpy(last_h)).sum()
    torch.autograd.backward(loss + (after_c * torch.from_numpy(last_c)).sum())
    trace = cells.lstm_forward(plain, x, (h, c))
    found = cells.lstm_backward(plain, trace, errors, (last_h, last_c))
    named = dict(module.named_parameters())
    for mine, of in ((found.w, named["weight_ih_l0"]), (found.r, named["weight_hh_l0"]),
                     (found.b, named["bias_ih_l0"]), (found.x, given)):  # fmt: skip
        np.testing.assert_allclose(mine, gradient(of), rtol=1e-6, atol=1e-9)


def test_an_open_forget_gate_carries_the_error_back_and_a_shut_one_does_not() -> None:
    plain = layer("lstm")
    norms = {}
    for name, bias in (("open", 12.0), ("shut", -12.0)):
        b = plain.b.copy()
        b[H : 2 * H] = bias
        trace = cells.lstm_forward(replace(plain, r=plain.r * 0, b=b), *drawn(plain))
        zeros = np.zeros((STEPS, H))
        back = cells.lstm_backward(replace(plain, r=plain.r * 0, b=b), trace, zeros,
                                   (np.zeros(H), np.ones(H)))  # fmt: skip
        assert back.c is not None
        norms[name] = np.abs(back.c[0]).max()
    assert norms["open"] > 0.99
    assert norms["shut"] < 1e-50
