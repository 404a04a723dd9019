"""Images in folders with links and more, and of unusual kinds: none is left out, nor made of other pixels, silently."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from worker_odd_inputs import png
from worker_peer import Host, Message
from worker_sessions import inspected, kept, reasons, run

pytestmark = pytest.mark.tensorflow

Session = Callable[..., Message]
PLAIN = png(np.full((4, 12), 7), colour=2)


@pytest.fixture
def session(odd: Path, tmp_path: Path) -> Session:
    """Makes a session's spec by the name of its model, over the folder `photos` of the test's."""
    (tmp_path / "photos").mkdir()

    def make(model: str = "float", **more: Any) -> Message:
        spec = {"name": "s", "model": str(odd / f"looks_{model}"), "input": str(tmp_path / "photos"), "batch_size": 3}
        return spec | {"output": str(tmp_path / "out")} | more

    return make


def photo(path: Path, value: int = 7) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(np.full((4, 12), value), colour=2))


def listed(session: Message, root: Path) -> list[str]:
    text = (Path(session["output"]) / "items.jsonl").read_text()
    return [str(Path(json.loads(line)["name"]).relative_to(root)) for line in text.splitlines()]


@pytest.mark.parametrize("pattern", ["", "/**/*.png"])
def test_a_folder_is_read_through_links_and_without_hidden_files(
    host: Host, session: Session, tmp_path: Path, pattern: str
) -> None:
    photos, elsewhere = tmp_path / "photos", tmp_path / "elsewhere"
    names = ["a/0.png", "a.png", "linked/deep/3.png", "linked/2.png", "z.png"]
    for value, name in enumerate(names):
        photo((elsewhere if name.startswith("linked") else photos) / name.removeprefix("linked/"), value)
    for name in ("._a.png", ".hidden.png", ".thumbnails/a.png", "a/._0.png"):
        photo(photos / name)
    (photos / "linked").symlink_to(elsewhere)
    (photos / "a" / "up").symlink_to(photos)
    (elsewhere / "again").symlink_to(elsewhere / "deep")
    (elsewhere / "deep" / "loop").symlink_to("../deep")
    (photos / "zz.png").symlink_to("z.png")
    (photos / "notes").symlink_to("nowhere")
    run(host, spec := session(input=f"{photos}{pattern}"))
    expected = ["a/0.png", "a.png", "linked/2.png", "linked/again/3.png", "linked/deep/3.png", "z.png", "zz.png"]
    assert listed(spec, photos) == expected
    values = [rows[0][0][0] for rows in kept(spec, "pixels")]
    assert values == [0, 1, 3, 2, 2, 4, 4]
    again = {"output": str(tmp_path / "again")}
    (before,) = inspected(host, spec | again)
    manifest = json.loads((tmp_path / "out" / "session.json").read_text())
    photo(elsewhere / "deep" / "3.png", 100)
    (tmp_path / "out" / "session.json").write_text(json.dumps(manifest | {"complete": False, "cursor": 3}))
    (changed,) = inspected(host, spec)
    assert before["error"] is None
    assert before["total"] == len(expected)
    assert "its rows are of another version of the input" in changed["error"]["reason"]


@pytest.mark.parametrize("pattern", ["", "/*.png"])
def test_a_link_that_leads_nowhere_is_told_of(host: Host, session: Session, tmp_path: Path, pattern: str) -> None:
    for name in ("0.png", "2.png"):
        photo(tmp_path / "photos" / name)
    (tmp_path / "photos" / "1.png").symlink_to("gone.png")
    spec = session(input=str(tmp_path / "photos") + pattern)
    (refused,) = inspected(host, spec)
    reason = f"cannot read '{tmp_path}/photos/1.png': it is a link to 'gone.png', which is not there; mend the link, or"
    assert reason in refused["error"]["reason"]
    run(host, spec | {"on_error": "skip"})
    assert np.isnan(kept(spec, "pixels")[:, 0, 0, 0]).tolist() == [False, True, False]
    assert "photos/1.png" in reasons(spec)[0]


def test_a_name_that_is_no_text_is_a_name(host: Host, session: Session, tmp_path: Path) -> None:
    (tmp_path / "photos" / os.fsdecode(b"gr\xf6\xdfe.png")).write_bytes(PLAIN)
    run(host, spec := session())
    assert listed(spec, tmp_path / "photos") == ["gr\\xf6\\xdfe.png"]


def test_links_below_a_models_folder_are_part_of_it(host: Host, odd: Path, session: Session, tmp_path: Path) -> None:
    model, weights = tmp_path / "model", tmp_path / "weights"
    weights.mkdir()
    model.mkdir()
    for part in (odd / "looks_float").iterdir():
        (model / part.name).symlink_to(part)
    (model / "extra").symlink_to(weights)
    photo(tmp_path / "photos" / "0.png")
    spec = session(model=str(model))
    (before,) = inspected(host, spec | {"model": str(model)})
    (weights / "more").write_text("of another training")
    (after,) = inspected(host, spec | {"model": str(model)})
    assert before["error"] is None
    assert before["fingerprint"] != after["fingerprint"]


def grid(value: Any, samples: int) -> np.ndarray:
    """The samples of an image of four by four pixels of that value."""
    return np.full((4, 4 * samples), value)


BITS, NIBBLES = np.full((4, 1), 0xFF), np.full((4, 2), 0x11)  # each row packed
GREY_DEEP = png(grid(33023, 1), colour=0, depth=16)
KINDS: list[tuple[str, str, bytes, Message, Any]] = [  # what it is, model, file, image, the first pixel
    ("16 bits keep their fractions", "float", GREY_DEEP, {}, [33023 / 257] * 3),
    ("or all of it", "float", GREY_DEEP, {"scale": "0..65535"}, [33023] * 3),
    ("also as integers", "uint16", GREY_DEEP, {"scale": "0..65535"}, [33023]),
    ("their largest is the largest", "uint16", png(grid(65535, 1), colour=0, depth=16), {"scale": "0..65535"}, [65535]),
    ("and rounded as bytes", "uint8", png(grid(33200, 1), colour=0, depth=16), {}, [129] * 3),
    ("8 bits as 16", "float", png(grid(200, 3), colour=2), {"scale": "0..65535"}, [200 * 257] * 3),
    ("a palette", "float", png(BITS, colour=3, depth=1, palette=bytes([9, 8, 7, 30, 20, 10])), {}, [30, 20, 10]),
    ("one bit", "float", png(BITS, colour=0, depth=1), {}, [255] * 3),
    ("alpha dropped", "float", png(grid(40, 4), colour=6), {}, [40] * 3),
    ("alpha kept", "alpha", png(grid(40, 4), colour=6), {}, [40] * 4),
    ("no alpha in one bit", "alpha", png(BITS, colour=0, depth=1), {}, [255] * 4),
    ("no alpha in four", "alpha", png(NIBBLES, colour=3, depth=4, palette=bytes([9, 8, 7] * 2)), {}, [9, 8, 7, 255]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "file", "image", "pixel"), [kind[1:] for kind in KINDS], ids=[kind[0] for kind in KINDS]
)
def test_unusual_files_become_the_pixels_that_they_show(
    host: Host, session: Session, tmp_path: Path, model: str, file: bytes, image: Message, pixel: list[float]
) -> None:
    (tmp_path / "photos" / "0.png").write_bytes(file)
    run(host, spec := session(model, image=image))
    np.testing.assert_allclose(kept(spec, "pixels")[0, 0, 0], pixel, rtol=1e-6)


@pytest.mark.parametrize(("model", "image"), [("first", {}), ("first_free", {"size": [4, 5]})])
def test_a_model_may_take_the_channels_first(
    host: Host, session: Session, tmp_path: Path, model: str, image: Message
) -> None:
    pixels = np.arange(60).reshape(4, 5, 3)
    (tmp_path / "photos" / "0.png").write_bytes(png(pixels.reshape(4, 15), colour=2))
    run(host, spec := session(model, image=image))
    np.testing.assert_array_equal(kept(spec, "pixels")[0], pixels.transpose(2, 0, 1))


def test_files_that_are_cut_or_empty_are_errors(host: Host, session: Session, tmp_path: Path) -> None:
    whole = png(np.random.default_rng(1).integers(0, 256, (60, 180)), colour=2)
    for name, content in (
        ("0", whole),
        ("1", whole[: len(whole) // 2]),
        ("2", whole[:-20]),
        ("3", b""),
        ("4", whole[:20]),
    ):
        (tmp_path / "photos" / f"{name}.png").write_bytes(content)
    run(host, spec := session(on_error="skip"))
    assert np.isnan(kept(spec, "pixels")[:, 0, 0, 0]).tolist() == [False, True, True, True, True]


REFUSED = [
    ("int8", {}, "scale = \"0..255\" gives values up to 255, but input 'image' takes int8"),
    ("uint8", {"scale": "0..65535"}, 'scale = "0..65535" gives values up to 65535'),
    ("half", {"scale": "0..65535"}, "set a smaller one in image; or write the images as arrays"),
    ("two", {}, "images become (8, 8, 2), but input 'image' takes float32 (any, 8, 8, 2); write the images as arrays"),
    ("first", {"size": [9, 9]}, "images become (3, 9, 9), but input 'image' takes float32 (any, 3, 4, 5); set image ="),
]


def test_what_no_image_can_become_is_refused_with_advice_that_can_be_followed(
    host: Host, session: Session, tmp_path: Path
) -> None:
    photo(tmp_path / "photos" / "0.png")
    answers = inspected(host, *(session(model, name=model, image=image) for model, image, _ in REFUSED))
    for (_, _, reason), answer in zip(REFUSED, answers, strict=True):
        assert reason in answer["error"]["reason"]
