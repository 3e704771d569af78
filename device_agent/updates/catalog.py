"""Which model belongs in which slot: the record of deployments combined with the configuration."""

from __future__ import annotations

from collections.abc import Callable

from edgec.device_agent.config.settings import AgentConfig
from edgec.device_agent.errors import StateError, UpdateError
from edgec.device_agent.inference.runner import Candidate
from edgec.device_agent.updates.deployments import Deployments, SlotState, Version
from edgec.device_agent.updates.store import ModelStore
from edgec.protocol.jobs import UpdateDocument
from edgec.runtime.errors import ArtifactError


class Catalog:
    """Decides which model to load into every slot.

    Args:
        config: returns the present configuration.
        deployments: what was installed, and the update under way.
        store: the models on the device.
        degrade: takes what is wrong (`model <slot>`) and why.
    """

    def __init__(
        self,
        config: Callable[[], AgentConfig],
        deployments: Deployments,
        store: ModelStore,
        degrade: Callable[[str, str], None],
    ) -> None:
        self._config, self._deployments, self._store, self._degrade = config, deployments, store, degrade

    def install(self, slot: str) -> None:
        """Add the configured artifact to the store when it is new, and let the slot run it."""
        artifact = self._config().models[slot].artifact
        state = self._deployments.slot(slot)
        if artifact is None or not artifact.is_file():
            if artifact is not None and state.current is None:
                self._degrade(f"model {slot}", f"there is no file {artifact}")
            return
        try:
            digest = self._store.add_artifact(artifact)
            if digest != state.factory:
                self._deployments.set_slot(slot, SlotState(Version(digest), state.current, digest))
        except (ArtifactError, StateError) as error:
            self._degrade(f"model {slot}", str(error))

    def candidates(self, slot: str) -> list[Candidate]:
        """Return the models to load into a slot, best first: the desired one, then the previous one."""
        threads = self.threads(slot)
        state = self._deployments.slot(slot)
        versions = [self._deployments.to_run(slot), state.current, state.previous]
        digests = list(dict.fromkeys(version.digest for version in versions if version))
        if state.factory and state.factory not in digests:
            digests.append(state.factory)
        models = [self.stored(slot, digest) for digest in digests]
        section = self._config().models.get(slot)
        if section and section.artifact and section.artifact.is_file():
            models.append(Candidate(str(section.artifact), None, threads))
        return models

    def stored(self, slot: str, digest: str) -> Candidate:
        """Return a model of the store as this slot loads it."""
        return Candidate(str(self._store.folder), digest, self.threads(slot))

    def threads(self, slot: str) -> int | None:
        """Return the slot's number of threads; None leaves it to the runtime."""
        section = self._config().models.get(slot)
        return section.threads if section else None

    def streams_of(self, slot: str) -> list[str]:
        """Return the streams whose frames go to a slot."""
        return [name for name, one in self._config().streams.items() if one.enabled and one.model == slot]

    def slot_for(self, document: UpdateDocument) -> str | None:
        """Return the slot that an update is for: the named one, that of the model's name, or the only one."""
        models = self._config().models
        wanted = document.slot or document.model
        if wanted in models:
            return wanted
        for slot in models:
            current = self._deployments.slot(slot).current
            if document.slot is None and current and current.name == document.model:
                return slot
        return next(iter(models)) if len(models) == 1 and not document.slot else None

    def roll_back(self, slot: str | None, digest: str | None = None) -> tuple[str, Version]:
        """Exchange a slot's model with the one before it; returns the slot and what it has to run now.

        With a `digest` only to that model: a slot that runs it already is left as it is.

        Raises:
            UpdateError: there is no model from before, or an update is under way.
            StateError: it cannot be written down.
        """
        slot = slot or next(iter(self._config().models), "")
        state = self._deployments.slot(slot)
        if digest and state.current and state.current.digest == digest:
            return slot, state.current
        if state.previous is None:
            raise UpdateError(f"slot {slot} has no previous model")
        if digest and state.previous.digest != digest:
            raise UpdateError(f"slot {slot} has kept another model than {digest[:19]}")
        if self._deployments.update is not None:
            raise UpdateError("an update is under way")
        self._deployments.set_slot(slot, SlotState(state.previous, state.current, state.factory))
        return slot, state.previous
