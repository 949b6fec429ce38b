"""Maps that the cells of a study need and the cache lacks, and the command that extracts them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from boldreams_cli.console import BoldreamsError, ChoiceError, StopFlag
from boldreams_cli.data.opening import is_data_file
from boldreams_cli.data.prepared.choosing import at_hand, names_of, responses_for, root_of
from boldreams_cli.data.subjects import Subject, folder_of
from boldreams_cli.features import clip
from boldreams_cli.features.choosing import the_store, with_images
from boldreams_cli.features.store import made_with
from boldreams_cli.features.store.feature_store import FeatureStore, folder_name, stores
from boldreams_cli.files import fingerprint
from boldreams_cli.study.cells.manifest import Study
from boldreams_cli.study.sweep import groups


@dataclass
class Need:
    """Maps that the cache lacks, of images that lie in one place.

    Parameters
    ----------
    backbone : whose maps.
    root : folder or file of the images.
    subjects : whose images lack maps.
    names : hash of the images' names; None where a data set numbers its images for all.
    """

    backbone: str
    root: Path
    subjects: list[Subject]
    names: str | None

    def job_name(self, study: Study) -> str:
        """Of its array: another study that needs the same waits for it, however its cache is spelled."""
        settings = [study.settings.get(name) for name in ("weights", "sessions", "betas", "features")]
        key = fingerprint([str(study.cache.resolve()), str(self.root.resolve()), self.subjects, settings])[:6]
        return f"boldreams.extract.{folder_name(self.backbone)}.{key}"

    @property
    def stem(self) -> str:
        """Of its script and logs: a subject of a data file has its own."""
        own = f"-{folder_of(self.subjects[0])}" if is_data_file(self.root) else ""
        return f"extract-{folder_name(self.backbone)}{own}"

    @property
    def place(self) -> list[str]:
        """Options that say where the images are."""
        return ["--data" if is_data_file(self.root) else "--nsd-root", shlex.quote(str(self.root))]

    def words(self, study: Study) -> list[str]:
        """Words of the command that adds the maps to the store that is there, or makes one.

        Raises
        ------
        ChoiceError
            If the store that is there is not to be extended by a sweep.
        """
        store = _store(study, self.backbone, self.names)
        made = {} if store is None else self._made(study, store)
        return self._extract(study, store, self.subjects, made)

    def _made(self, study: Study, store: FeatureStore) -> dict[str, str]:
        """Options that a store was made with, but for defaults: other ones would fill a second store."""
        spec = store.spec
        if spec["keep"] is not None:
            there = [cell.subject for cell in study.cells if cell.backbone == self.backbone]
            subjects = [subject for subject in dict.fromkeys(there) if isinstance(subject, int)]
            keep = {"--keep-percent": f"{spec['keep']['percent']:g}"}
            line = " ".join(self._extract(study, store, self.subjects if is_data_file(self.root) else subjects, keep))
            raise ChoiceError(
                f"{store.path} keeps filters chosen for the subjects that it was made of, and takes no others; run "
                f"boldreams {line}, and name its store with --features where there are several"
            )
        if (name := spec["preprocessing"].get("clip", clip.DEFAULT)).partition(":")[0] != clip.DEFAULT:
            line = " ".join(self._extract(study, store, self.subjects, {"--clip": name}))
            raise ChoiceError(
                f"{store.path} is of the CLIP {name}, which a sweep does not extract; run boldreams {line}"
            )
        chosen = made_with.options(spec, store.weights, store.layers)
        return {name: chosen[name] for name in ("--layers", "--map", "--dtype") if name in chosen}

    def _extract(
        self, study: Study, store: FeatureStore | None, subjects: Sequence[Subject], made: Mapping[str, str]
    ) -> list[str]:
        """Words of ``extract`` for some subjects, with options of the store."""
        settings = study.settings
        words = ["extract", "--cache", shlex.quote(str(study.cache.absolute()))]
        words += [*self.place, "--backbone", shlex.quote(self.backbone)]
        for subject in subjects:
            words += ["--subject", str(subject)]
        optional = {
            "--weights": settings.get("weights") or (store.weights if store is not None else None),
            **made,
            "--sessions": settings.get("sessions"),
            "--betas": None if is_data_file(self.root) else settings.get("betas"),
            "--device": None if study.device == "auto" else study.device,
        }
        for option, value in optional.items():
            words += [option, shlex.quote(str(value))] if value else []
        return words


def lacking(study: Study, numbers: Iterable[int], stop: StopFlag) -> list[Need]:
    """Backbones whose maps the cache lacks, with the subjects whose images they lack, by where these images are.

    Raises
    ------
    BoldreamsError
        If there is nothing to extract from.
    """
    found: dict[tuple[str, Path], Need] = {}
    for (subject, backbone), some in groups(study, numbers).items():
        if all(study.cells[number].finetune for number in some):
            continue
        root = root_of(study.cache, subject, study.data_root)
        own = root is not None and is_data_file(root)  # which has one kind of betas
        sessions, betas = study.settings.get("sessions"), None if own else study.settings.get("betas")
        dataset = at_hand(root, subject, betas)
        if dataset is not None:
            images = dataset.images(subject, sessions)
        else:
            mask = study.settings.get("mask")
            owned = responses_for(study.cache, subject, study.data_root, sessions, mask, stop, betas)
            images = owned.trial_images
        names = _names(study, subject)
        store = _store(study, backbone, names)
        if store is not None and np.isin(images, store.images[store.done()]).all():
            continue
        if dataset is None or root is None:
            raise BoldreamsError(
                f"{study.cache} lacks maps of {backbone} for subject {subject}, and there are no images to extract; "
                "use --nsd-root DIR, or --data FILE"
            )
        need = found.setdefault((backbone, root.absolute()), Need(backbone, root.absolute(), [], names))
        need.subjects.append(subject)
    return list(found.values())


def _store(study: Study, backbone: str, names: str | None) -> FeatureStore | None:
    """The cache's store of a backbone with the images of these names; None where there is none to choose from."""
    features = study.settings.get("features")
    there = with_images(stores(study.cache, backbone), names)
    return the_store(study.cache, backbone, features, names) if features or there else None


def _names(study: Study, subject: Subject) -> str | None:
    """Hash of the names of a subject's images; None where a data set numbers its images for all."""
    if isinstance(subject, int):
        return None
    dataset = at_hand(root_of(study.cache, subject, study.data_root), subject)
    sessions, mask = study.settings.get("sessions"), study.settings.get("mask")
    if dataset is None:
        return names_of(responses_for(study.cache, subject, study.data_root, sessions, mask).request)
    return names_of(dataset.request(subject, sessions, mask))
