"""Inputs that a Python function gives: `package.module:callable`. The only place that runs code of the session's.

The function is called with `input_args`, and gives a `tf.data.Dataset` or any other iterable of items, not batches: the
same ones in the same order at every call. One that takes a parameter `start` gives the items from that position on;
of any other the items before the cursor are read, and let go. Its module is imported, and all of it runs, in the
session's `cwd`. Wherever code of the session's runs, it may raise anything: `_blame` tells that as the input's fault.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import inspect
import itertools
import operator
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import tensorflow as tf

from daemon.sessionfile import SessionSpec
from daemon.worker.failures import Refused, is_out_of_memory, told
from daemon.worker.inputs.batches import BATCHES_AHEAD, Batch, Shapes, ahead, refused
from daemon.worker.inputs.values import Arrays, Assembler, UnfitError
from daemon.worker.signature import Signature

START: Final = "start"
TRIED: Final = 1000  # items: where none of so many is what the model takes, they are not the model's


class FeedInput:
    """What the function gives."""

    def __init__(self, spec: SessionSpec, signature: Signature) -> None:
        self._called = str(spec.input)
        self._function = imported(spec)
        self._arguments = dict(spec.input_args or {})
        self._skip = spec.on_error == "skip"
        self._inputs = signature.inputs
        self._assembler = Assembler(signature, spec.batch_size)
        self._takes_start = self._has_start()
        self._given = self._call(0)
        self.total = self._count()
        if self.total != 0:
            self._check_first()
        self.item_shapes: Shapes = self._assembler.shapes

    @property
    def varies(self) -> bool:
        """Whether items may have several shapes."""
        return self._assembler.varies

    def batches(self, start: int, size: int) -> Iterator[Batch]:
        """tf.data runs ahead by itself where it says what its items look like; else a thread does."""
        given = self._call(start if self._takes_start else 0)
        if given is self._given and isinstance(given, Iterator):
            raise refused(self._called, "it returned the same iterator twice", "have it make a new one at each call")
        unread = 0 if self._takes_start else start
        if isinstance(given, tf.data.Dataset):
            given = given.skip(unread)
            unread = 0
            if self._is_uniform(given):
                return self._batched(given, start, size)
            given = given.as_numpy_iterator()
        return ahead(self._read(itertools.islice(self._iterator(given), unread, None), start, size))

    def fault(self, start: int, end: int) -> tuple[int, str] | None:  # noqa: ARG002 - `_read` names it itself
        """Never told: what is no item is named where it is met."""
        return None

    def names(self) -> Iterator[str] | None:
        """None: items are told by their position."""
        return None

    # What it is

    def _has_start(self) -> bool:
        with self._own("asking it for its parameters"):
            try:
                return START in inspect.signature(self._function).parameters
            except (TypeError, ValueError):  # a built-in one that does not say
                return False

    def _call(self, start: int) -> Any:
        with self._own("calling it"):
            given = self._function(**self._arguments, **({START: start} if self._takes_start else {}))
        with self._own("asking what it returned for its items"):
            is_iterable = hasattr(given, "__iter__") and not isinstance(given, Mapping | str | bytes)
        if not is_iterable:
            why = f"it returned a {type(given).__name__}"
            raise refused(self._called, why, "have it return a tf.data.Dataset, or an iterable of items")
        if isinstance(given, tf.data.Dataset):
            options = tf.data.Options()
            options.deterministic = True
            return given.with_options(options)
        return given

    def _count(self) -> int | None:
        if isinstance(self._given, tf.data.Dataset):
            count = int(self._given.cardinality())
            if count == tf.data.INFINITE_CARDINALITY:
                raise refused(self._called, "its data set never ends", "have it take() a number of items")
            return None if count == tf.data.UNKNOWN_CARDINALITY else count
        with self._own("the len() of what it returned"):
            try:
                return len(self._given)
            except (TypeError, NotImplementedError):  # a generator
                return None

    def _iterator(self, given: Any) -> Iterator[Any]:
        with self._own("the iter() of what it returned"):
            return iter(given)

    def _check_first(self) -> None:
        """See that the first item fits; when items may be left out, one of the first. There may be none at all."""
        is_dataset = isinstance(self._given, tf.data.Dataset)
        first = self._given.as_numpy_iterator() if is_dataset else self._iterator(self._given)
        wrong: Refused | None = None
        for item, value in enumerate(itertools.islice(self._guarded(first, 0), TRIED)):
            found = self._item(item, value)
            if not isinstance(found, str):
                return
            wrong = wrong or self._unfit(item, found)
            if not self._skip:
                break
        if wrong is not None:
            raise wrong
        self.total = 0

    def _is_uniform(self, dataset: tf.data.Dataset) -> bool:
        """Whether every item is bound to fit, so that TensorFlow may put the batches together."""
        specs = self._by_name(dataset.element_spec)
        return all(
            isinstance(spec := specs.get(name), tf.TensorSpec)
            and spec.dtype.name == wanted.dtype
            and spec.shape.is_fully_defined()
            and wanted.accepts(tuple(spec.shape))
            for name, wanted in self._inputs.items()
        )

    def _by_name(self, element: Any) -> Mapping[str, Any]:
        if isinstance(element, Mapping):
            return element
        return dict.fromkeys(self._inputs, element) if len(self._inputs) == 1 else {}

    # Reading it

    def _batched(self, dataset: tf.data.Dataset, start: int, size: int) -> Iterator[Batch]:
        for element in self._guarded(iter(dataset.batch(size).prefetch(BATCHES_AHEAD)), start):
            tensors = {name: self._by_name(element)[name] for name in self._inputs}
            end = start + len(next(iter(tensors.values())))
            yield Batch(start, end, tensors)
            start = end

    def _read(self, values: Iterator[Any], start: int, size: int) -> Iterator[Batch]:
        values = self._guarded(values, start)
        while items := [self._item(item, value) for item, value in enumerate(itertools.islice(values, size), start)]:
            if self.total is not None and start + len(items) >= self.total:
                beyond = start + len(items) - self.total or sum(1 for _ in itertools.islice(values, 1))
                if beyond:
                    why = f"it gives more than the {self.total} items that its len() says"
                    raise refused(self._called, why, "mend its len()", self.total)
            batch = self._assembler.batch(start, items)
            if batch.errors and not self._skip:
                raise self._unfit(*min(batch.errors.items()))
            yield batch
            start = batch.end

    def _item(self, item: int, value: Any) -> Arrays | str:
        try:
            return self._assembler.item(value)
        except UnfitError as error:
            return str(error)
        except BaseException as error:
            _blame(self._called, f"its item {item}", error, item)
            raise

    def _guarded(self, values: Iterator[Any], start: int) -> Iterator[Any]:
        """The values; what the function's code raises is told with the item it happened at. It cannot be skipped."""
        for item in itertools.count(start):
            try:
                value = next(values)
            except StopIteration:
                return
            except BaseException as error:
                _blame(self._called, f"its item {item}", error, item)
                raise
            yield value

    def _own(self, doing: str) -> contextlib.AbstractContextManager[None]:
        return _own(self._called, doing)

    def _unfit(self, item: int, why: str) -> Refused:
        return refused(
            self._called, f"item {item} is no item of this model: {why}", "have it give what the model takes", item
        )


@contextlib.contextmanager
def _own(called: str, doing: str) -> Iterator[None]:
    """Around what runs code of the session's."""
    try:
        yield
    except BaseException as error:
        _blame(called, doing, error)
        raise


def _blame(called: str, doing: str, error: BaseException, item: int | None = None) -> None:
    """Raises Refused (input) for what code of the session's raised, unless that was told already, or is no fault of it.

    No fault is memory that ran out, which is tried again, and that this process was interrupted.
    """
    if not (isinstance(error, Refused | KeyboardInterrupt) or is_out_of_memory(error)):
        raise refused(called, f"{doing} raised {told(error)}", "mend it", item) from error


_brought: dict[str, set[str]] = {}  # by folder, the modules that were imported from there


def imported(spec: SessionSpec) -> Callable[..., Any]:
    """The function that the session names, looked for in its `cwd` first, which is entered. Raises Refused (input)."""
    called, folder = str(spec.input), str(spec.cwd)
    module_name, _, path = called.partition(":")
    _enter(called, folder)
    _make_room(folder)
    is_beside = _is_beside(called, module_name, folder)
    before = set(sys.modules)
    try:
        with _own(called, f"importing '{module_name}'"):
            try:
                module = importlib.import_module(module_name)
            except ModuleNotFoundError as error:
                if not f"{module_name}.".startswith(f"{error.name}."):
                    raise
                why = f"there is no module '{error.name}' in {folder}, nor is one installed"
                raise refused(called, why, "set input = package.module:callable, or cwd = its folder") from error
    finally:
        _brought[folder] |= {name for name in set(sys.modules) - before if _is_below(sys.modules[name], folder)}
        if is_beside:  # whatever it has put in its own place
            _brought[folder].add(module_name.partition(".")[0])
    with _own(called, f"looking for '{path}' in '{module_name}'"):
        try:
            found = operator.attrgetter(path)(module)
        except AttributeError as error:
            raise refused(called, f"module '{module_name}' has no '{path}'", "name a callable of it") from error
    if not callable(found):
        raise refused(called, f"'{path}' is a {type(found).__name__}, and cannot be called", "name a callable")
    return found


def source_of(spec: SessionSpec) -> Path | None:
    """The file of the function's module. It has been imported."""
    file = getattr(sys.modules.get(str(spec.input).partition(":")[0]), "__file__", None)
    return Path(file) if file else None


def _enter(called: str, folder: str) -> None:
    """As a program would: a relative path means there what it means in the session file, beside the function."""
    try:
        os.chdir(folder)
    except OSError as error:
        why = f"its folder {folder} cannot be entered ({error.strerror})"
        raise refused(called, why, "mend that, or set cwd = the folder of its module") from error


def _is_beside(called: str, module_name: str, folder: str) -> bool:
    """Whether the module lies in the folder. Raises Refused where one of that name is in its way: it would be taken."""
    name = module_name.partition(".")[0]
    beside = importlib.machinery.PathFinder.find_spec(name, [folder])
    if beside is None or beside.origin is None:  # a folder without __init__.py gives way to an installed package
        return False
    is_taken = name in sys.modules and name not in _brought[folder]
    if not is_taken and name not in sys.builtin_module_names:
        return True
    whose = getattr(sys.modules.get(name), "__file__", None) or "Python's own"
    if os.path.realpath(whose) == os.path.realpath(beside.origin):
        return True
    why = f"{beside.origin} cannot be imported, as a worker has another module '{name}' already ({whose})"
    raise refused(called, why, "rename that file, and set input to match")


def _make_room(folder: str) -> None:
    """Import from that folder first, and from no other session's: one process may look at several sessions."""
    for other in [other for other in _brought if other != folder]:
        for name in _brought.pop(other):
            sys.modules.pop(name, None)
        if other in sys.path:
            sys.path.remove(other)
    if folder not in _brought:
        sys.path.insert(0, folder)
        _brought[folder] = set()
    importlib.invalidate_caches()


def _is_below(module: Any, folder: str) -> bool:
    return str(getattr(module, "__file__", None) or "").startswith(f"{folder.rstrip('/')}/")
