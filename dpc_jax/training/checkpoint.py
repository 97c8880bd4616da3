"""Checkpoints that a training goes on from: an Orbax manager, and checksums of what it wrote.

A checkpoint is written in the background, whole or not at all. The checksums come last, beside the files, because Orbax
does not notice a file that changes on the disk: a checkpoint without them is not finished, one that does not agree with
them is damaged, and both are passed over with a warning.
"""

import contextlib
import logging
import pathlib
import threading
import types
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from dpc_jax import weights
from dpc_jax.base import InputError, PyTree

STATE, FACTS = 'state', 'facts'
POLL_SECONDS, CLOSE_SECONDS = 0.02, 1.0
WRITERS = 4  # threads of Orbax that write for one checkpoint; each reports its failure once

T = TypeVar('T', bound=PyTree)


class Checkpoints:
    """The last few checkpoints of one run: `with Checkpoints(folder, keep=3) as checkpoints: ...`.

    Any tree of arrays will do, but not keys of the PRNG. On several hosts every process calls every method, the
    folder is shared by them, and the values are equal in all.
    """

    def __init__(self, folder: pathlib.Path, *, keep: int) -> None:
        """`keep`: how many checkpoints stay; what a killed run left half written is removed."""
        self.folder = folder.absolute()
        self._step = -1  # the step that is being written, or was written last
        self._given_up = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        self._sums: Future[None] | None = None
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, cleanup_tmp_directories=True, enable_async_checkpointing=True
        )
        self._quiet = contextlib.ExitStack()
        self._quiet.enter_context(weights.quiet())  # until the end: Orbax goes on in threads of its own
        with self._explained('of this run'):
            self._manager = ocp.CheckpointManager(
                self.folder, options=options, item_names=(STATE, FACTS), item_handlers=_handlers()
            )

    def __enter__(self) -> 'Checkpoints':
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        """Waits for what is being written; its failure is raised unless something else went wrong before."""
        try:
            try:
                self.wait()
            finally:
                self._close()
        except InputError:
            if error is None:
                raise

    def _close(self) -> None:
        """Ends all threads; a full disk may have stopped several of them, and Orbax raises what one of them met."""
        first: Exception | None = None
        try:
            self._given_up.set()
            self._thread.shutdown()
            for _ in range(WRITERS + 1):
                try:
                    self._manager.close()
                    break
                except Exception as failure:
                    first = first or failure
            for thread in threading.enumerate():  # one that goes on when another failed would log its own failure
                if type(thread).__module__.startswith('orbax.'):
                    threading.Thread.join(thread, CLOSE_SECONDS)
        finally:
            self._quiet.close()
        if first is not None:
            with self._explained(f'of step {self._step}'):
                raise first

    def save(self, step: int, state: PyTree, facts: Mapping[str, Any]) -> None:
        """Begins to write; when it returns, `state` may be changed or given away. `facts` are what JSON can hold.

        Raises:
          InputError: this checkpoint or the one before could not be written; older ones are as they were.
        """
        self.wait()  # for the checkpoint before, so that an error names its step
        if step in self._manager.all_steps():
            return
        self._step = step
        arguments = ocp.args.Composite(state=ocp.args.StandardSave(flat(state)), facts=ocp.args.JsonSave(dict(facts)))
        with self._explained(f'of step {step}'):
            weights.check_space(self.folder, state)
            self._manager.save(step, args=arguments)
        if jax.process_index() == 0:
            self._sums = self._thread.submit(self._add_sums, self.folder / str(step))

    def wait(self) -> None:
        """Waits until what was begun is on the disk; InputError if it could not be written."""
        with self._explained(f'of step {self._step}'):
            pending, self._sums = self._sums, None
            try:
                self._manager.wait_until_finished()
            except BaseException:
                self._given_up.set()  # its folder will not come
                raise
            if pending is not None:
                pending.result()

    def _add_sums(self, path: pathlib.Path) -> None:
        """Adds the checksums as soon as Orbax has moved the checkpoint to its place."""
        while not path.is_dir():
            if self._given_up.wait(POLL_SECONDS):
                return
        weights.write_sums(path)

    def restore(self, shapes: T) -> tuple[T, dict[str, Any]] | None:
        """The newest state that is whole, and its facts; None where there is no checkpoint at all.

        Those that are damaged are warned of, and removed as soon as an older one is found to be whole.

        Args:
          shapes: the tree, with the shapes and types of its leaves.

        Raises:
          InputError: there are checkpoints, and none of them is whole.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                found = self._read(step, shapes)
            except InputError as error:
                logging.warning('step %d is passed over: %s', step, error)
                damaged.append(step)
                continue
            for other in damaged:
                self._manager.delete(other)
            return found
        if any((self.folder / str(step) / weights.SUMS).is_file() for step in damaged):
            listed = ', '.join(map(str, sorted(damaged)))
            raise InputError(
                f'no checkpoint in {self.folder} is whole (steps {listed}); remove the folder to begin anew'
            )
        for step in damaged:  # the first was not finished
            self._manager.delete(step)
        return None

    def _read(self, step: int, shapes: T) -> tuple[T, dict[str, Any]]:
        weights.verify(self.folder / str(step))
        wanted = {name: np.zeros(leaf.shape, leaf.dtype) for name, leaf in flat(shapes).items()}
        arguments = ocp.args.Composite(state=ocp.args.StandardRestore(wanted), facts=ocp.args.JsonRestore())
        held = self._manager.restore(step, args=arguments)
        leaves = [np.asarray(held[STATE][name]) for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(shapes), leaves), dict(held[FACTS])

    @contextlib.contextmanager
    def _explained(self, which: str) -> Iterator[None]:
        """Within it a failure to write is one line."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            why = weights.full_disk(error) or ' '.join(str(error).split())
            if not weights.full_disk(error) and not isinstance(error, OSError):
                raise
            raise InputError(
                f'the checkpoint {which} cannot be written into {self.folder}: {why}; {self._newest()}'
            ) from error

    def _newest(self) -> str:
        steps = sorted(int(path.parent.name) for path in self.folder.glob(f'*/{weights.SUMS}'))
        return f'the same command goes on from step {steps[-1]}' if steps else 'there is none before it'


def _handlers() -> dict[str, Any]:
    return {STATE: ocp.StandardCheckpointHandler(), FACTS: ocp.JsonCheckpointHandler()}


def flat(tree: PyTree) -> dict[str, Any]:
    """The leaves by their paths, joined by dots."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator='.'): leaf for path, leaf in leaves}
