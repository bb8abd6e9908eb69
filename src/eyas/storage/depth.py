"""Decoder layers of a model in memory: taken out for good, with all that its config says of them, or passed by."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from eyas.errors import ModelError

LISTS = ("activation_sparsity_pattern", "intermediate_size")
"""Settings that may be a list with an entry for each layer though their names do not say `layer` (Gemma 3n)."""


def decoder_layers(model: PreTrainedModel, *, keep: int) -> nn.ModuleList:
    """The model's decoder layers, of which `keep` are wanted.

    Raises: ModelError, if the model has fewer layers or keeps them elsewhere than in `model.layers`.
    """
    layers = getattr(model.get_decoder(), "layers", None)
    if not isinstance(layers, nn.ModuleList) or keep > len(layers):
        found = len(layers) if isinstance(layers, nn.ModuleList) else "none"
        raise ModelError(f"keep_layers {keep}: this model has {found} decoder layers to keep. Ask for at most as many.")
    return layers


def keep_only(model: PreTrainedModel, kept: Sequence[int]) -> None:
    """Take all decoder layers but these, given ascending, out of the model and its config, in place.

    Layers get new numbers, which is where they write in a cache.

    Raises: ModelError, if the config cannot say what remains: read again, it would make another model.
    """
    layers = decoder_layers(model, keep=len(kept))
    config = model.config.get_text_config(decoder=True)
    by_layer = {  # layer_types, SmolLM3's no_rope_layers, …
        name: value
        for name, value in config.to_dict().items()
        if isinstance(value, list) and len(value) == len(layers) and ("layer" in name or name in LISTS)
    }
    model.get_decoder().layers = nn.ModuleList(layers[index] for index in kept)
    for position, layer in enumerate(model.get_decoder().layers):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                part.layer_idx = position
    config.num_hidden_layers = len(kept)
    for name, value in by_layer.items():
        setattr(config, name, [value[index] for index in kept])
    _require_same(model)


def _require_same(model: PreTrainedModel) -> None:
    """Raises: ModelError, if the model's config makes layers with other weights or other settings than it has."""
    try:
        again = on_meta(type(model.config).from_dict(model.config.to_dict()))
    except (ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{_refusal(model)} is refused ({str(error)[:200]}). Choose another `keep_layers`.") from error
    for number, (ours, theirs) in enumerate(zip(model.get_decoder().layers, again.get_decoder().layers, strict=True)):
        found, made = _described(ours), _described(theirs)
        for name in sorted(found.keys() | made.keys()):
            if found.get(name) != made.get(name):
                raise ModelError(
                    f"{_refusal(model)} would make layer {number} with {name} {made.get(name)}, it has "
                    f"{found.get(name)}. Choose another `keep_layers`, or another way to choose them."
                )


def _refusal(model: PreTrainedModel) -> str:
    return f"{type(model).__name__} cut to {len(model.get_decoder().layers)} layers: its config"


def _described(layer: nn.Module) -> dict[str, Any]:
    """Shapes of the weights and plain settings of every part of a layer, by dotted name."""
    found: dict[str, Any] = {name: tuple(value.shape) for name, value in layer.state_dict().items()}
    for path, part in layer.named_modules():
        for name, value in vars(part).items():
            if not name.startswith("_") and name != "training" and isinstance(value, int | float | str | None):
                found[f"{path}.{name}".lstrip(".")] = value
    return found


def on_meta(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a config on the meta device: shapes, no weights."""
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


@contextmanager
def passed_by(layers: Iterable[nn.Module], *, by: Tensor | None = None) -> Iterator[None]:
    """Let layers hand on what they get, or `by` instead, a residual stream [B, T, D]; masks and positions stay whole.

    The model then computes what it would without these layers, or as if the stream after them were `by`.
    """
    before = [(layer, layer.__dict__.get("forward")) for layer in layers]

    def forward(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        return hidden_states if by is None else by

    for layer, _ in before:
        layer.__dict__["forward"] = forward
    try:
        yield
    finally:
        for layer, own in before:
            layer.__dict__.pop("forward")
            if own is not None:
                layer.__dict__["forward"] = own


@contextmanager
def recorded_stream(layers: Sequence[nn.Module], stream: list[Tensor]) -> Iterator[None]:
    """Append to `stream` what goes into every layer and what leaves the last one, [B, T, D] each, in one forward pass.

    Raises: ModelError, if a layer gives anything else than its residual stream.
    """

    def keep_input(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        stream.append(args[0] if args else kwargs["hidden_states"])

    def check_output(layer: nn.Module, _: tuple[Any, ...], output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(
                f"{type(layer).__name__} returns a {type(output).__name__}, expected its residual stream alone, so its "
                "layers cannot be measured. Take out `prune`: evenly spaced layers need no measuring."
            )
        if layer is layers[-1]:
            stream.append(output)

    handles = [layer.register_forward_pre_hook(keep_input, with_kwargs=True) for layer in layers]
    handles += [layer.register_forward_hook(check_output) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
