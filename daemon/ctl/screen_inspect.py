"""What `batonctl inspect` prints: a model, then each of its signatures as a table. Imports rich, as screen does."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from daemon.ctl.screen import LEVELS, console, put, safe, size
from daemon.results import InspectResult, SignatureView, TensorView

KIB = 1 << 10


def show_model(answer: InspectResult) -> None:
    """`batonctl inspect`."""
    version = "" if answer.version is None else f", version {answer.version}"
    _facts(
        ("model", answer.model),
        ("format", f"{answer.kind}{version}, {_bytes(answer.size_bytes)} on disk"),
    )
    for signature in answer.signatures:
        _show_signature(signature, answer.batch_size)


def _show_signature(signature: SignatureView, batch_size: int) -> None:
    put("", Text.assemble("signature ", (safe(signature.name), "bold")))
    if signature.problem is not None:
        _line(f"cannot be used: {signature.problem}", LEVELS["warning"])
        return
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("")
    table.add_column("name", overflow="fold")
    table.add_column("dtype", no_wrap=True)
    table.add_column("shape", overflow="fold")
    for role, tensors in (("takes", signature.inputs), ("gives", signature.outputs)):
        for tensor in tensors:
            table.add_row(Text(role, style="dim"), safe(tensor.name), safe(tensor.dtype), _shape(tensor))
    put(table)
    if signature.parameters is None:
        weight = f"not told by its files; {_bytes(signature.parameter_bytes)} on disk"
    else:
        weight = f"{signature.parameters:,} ({_bytes(signature.parameter_bytes)})"
    needs = f"{size(signature.need_bytes)} on the host, or {size(signature.device_bytes)} of a GPU"
    _facts(("parameters", weight), ("likely need", f"{needs}, at batch_size = {batch_size}"))


def _facts(*facts: tuple[str, str]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in facts:
        table.add_row(key, Text(safe(value)))
    put(table)


def _line(text: str, style: str) -> None:
    console().print(Text(safe(text), style=style), soft_wrap=True)


def _shape(tensor: TensorView) -> str:
    """(None, 28, 28) as "any × 28 × 28"."""
    if tensor.shape is None:
        return "of any rank"
    return " × ".join("any" if each is None else str(each) for each in tensor.shape) or "a single value"


def _bytes(count: int | None) -> str:
    """As `size` has it; below a MiB in smaller units, as small models are."""
    if count is None or count >= 1 << 20:
        return size(count)
    return f"{count / KIB:.1f} KiB" if count >= KIB else f"{count} bytes"
