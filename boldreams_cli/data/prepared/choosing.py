"""Which prepared responses are meant: those of what is asked now; without betas at hand, what the cache holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.data import identity
from boldreams_cli.data.areas import Areas, from_anywhere
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.neutral.reading import subject_of
from boldreams_cli.data.opening import is_data_file, open_dataset, preparation_of
from boldreams_cli.data.prepared.checking import check_betas, check_inputs
from boldreams_cli.data.prepared.preparing import complete_stores, file_of, store_path
from boldreams_cli.data.responses import Responses
from boldreams_cli.data.sessions import parse_sessions, ranges
from boldreams_cli.data.subjects import Subject, subject_of_store
from boldreams_cli.zarr_files import attributes


def responses_for(
    cache: Path,
    subject: Subject,
    data_root: Path | None,
    sessions: str | None = None,
    mask: str | None = None,
    stop: StopFlag | None = None,
    betas: str | None = None,
) -> Responses:
    """Responses that fitting and scoring use: those of what is asked now, prepared where the cache lacks them.

    With betas at hand, all that is asked, defaults included, is compared with what the cache holds. Without, cached
    responses are used as they are where they are unambiguous, and the log says so.

    Raises
    ------
    MismatchError
        If the cached ones were made from other betas than those under the root, or from more sessions.
    ChoiceError
        If several are cached and nothing says which.
    BoldreamsError
        If they must be prepared and there is no root, or as `Dataset.prepare`.
    """
    data_root = root_of(cache, subject, data_root)
    dataset = at_hand(data_root, subject, betas)
    if dataset is None:
        return _cached(cache, subject, data_root, sessions, mask, betas)
    request = dataset.request(subject, sessions, mask)
    path, known = store_path(cache, request), complete_stores(cache, subject)
    if path not in known:
        for other in known:
            _check_betas_kept(other, request, default=sessions is None)
        return dataset.prepare(subject, cache, sessions, mask, stop)
    responses = Responses.open(path)
    check_betas(responses, dataset, stop)
    responses.log_counts()
    return responses


def root_of(cache: Path, subject: Subject, root: Path | None) -> Path | None:
    """Where a subject's data lie: what was given, or the file that its prepared responses were made from.

    Parameters
    ----------
    cache : of those responses.
    subject : whose data are needed.
    root : folder or file that was given; a file must be this subject's, for its images have numbers of their own.

    Returns
    -------
    The root, the file, even where it is gone, so that whoever needs it names it; None where nothing is known.

    Raises
    ------
    ChoiceError
        If the file that was given is of another subject.
    """
    if root is not None and is_data_file(root):
        if root.is_file() and (of := subject_of(root)) != subject:
            raise ChoiceError(
                f"{root} is of subject {of}, not {subject}; correct --data (BOLDREAMS_DATA), or choose with --subject"
            )
        return root
    if isinstance(subject, int):
        return root
    found = [file for path in complete_stores(cache, subject) if (file := file_of(path)) is not None]
    return next((file for file in found if file.is_file()), found[0] if found else None)


def dataset_for(cache: Path, subject: Subject, root: Path | None, betas: str | None = None) -> Dataset:
    """Open the data set of a subject; errors are those of `known_root` and `open_dataset`."""
    return open_dataset(known_root(cache, subject, root), betas)


def known_root(cache: Path, subject: Subject, root: Path | None) -> Path | None:
    """As `root_of`, for who cannot do without.

    Raises
    ------
    ChoiceError
        If a subject of this name has no data that are known.
    """
    found = root_of(cache, subject, root)
    if found is None and isinstance(subject, str):
        raise _unknown(cache, subject)
    return found


def at_hand(data_root: Path | None, subject: Subject, betas: str | None = None) -> Dataset | None:
    """The data set, if all that a request of the subject is made of is there: it may be deleted once it is prepared."""
    if data_root is None or not data_root.exists():
        return None
    dataset = open_dataset(data_root, betas)
    if lacking := dataset.lacking(subject):
        logger.debug("%s", lacking)
        return None
    return dataset


def _check_betas_kept(path: Path, request: dict[str, Any], default: bool) -> None:
    """Refuse betas that changed, and a default that lost sessions: a new store would hide that files are damaged."""
    before = attributes(path)["request"]
    if before.get("preparation") != request.get("preparation"):
        return  # other betas are what was asked for
    again = f"run `boldreams prepare --subject {request['subject']}` if that is meant"
    changed = [name for name in identity.differences(before, request) if name.startswith("betas of session")]
    if changed:
        raise MismatchError(
            f"{path} was made from other betas than those under the root now ({listing(changed, 3)}); {again}, "
            f"or correct --nsd-root, --data or --cache"
        )
    lost = sorted(set(before["sessions"]) - set(request["sessions"]))
    if default and lost and before["mask"] == request["mask"] and set(request["sessions"]) < set(before["sessions"]):
        raise MismatchError(
            f"{path} was made from sessions {ranges(before['sessions'])}, of which {ranges(lost)} are no longer under "
            f"the root; say which to use with --sessions"
        )


def _cached(
    cache: Path, subject: Subject, data_root: Path | None, sessions: str | None, mask: str | None, betas: str | None
) -> Responses:
    cached = [path for path in complete_stores(cache, subject) if _matches(path, sessions, mask, betas)]
    if not cached:
        if isinstance(subject, str) and (data_root is None or not is_data_file(data_root)):
            raise _unknown(cache, subject)
        dataset = open_dataset(data_root, betas)
        if data_root is not None and is_data_file(data_root) and (lacking := dataset.lacking(subject)):
            raise BoldreamsError(lacking)
        if others := dataset.preparations(subject):
            raise ChoiceError(
                f"no such betas of subject {subject} under {dataset.root}, nor such responses in {cache}; of this "
                f"subject there are {listing(others)} (--betas)"
            )
        raise ChoiceError(
            f"no betas of subject {subject} under {dataset.root}, nor such responses in {cache}; "
            f"subjects under the root: {listing(dataset.subjects())} (--subject, --sessions, --mask)"
        )
    if len(cached) > 1:
        known = "; ".join(f"{path} ({_described(attributes(path)['request'])})" for path in cached)
        raise ChoiceError(
            f"several responses of subject {subject} are cached: {known}; "
            f"choose with --sessions, --mask or --betas, or delete those that are out of date"
        )
    responses = Responses.open(cached[0])
    logger.info("responses: %s, as it was made: no betas are at hand to compare with", cached[0])
    responses.log_counts()
    return responses


def _unknown(cache: Path, subject: str) -> ChoiceError:
    """What is said of a subject whose data nothing leads to."""
    there = {str(of) for path in (cache / "responses").glob("*.zarr") if (of := subject_of_store(path.name))}
    return ChoiceError(
        f"no such responses of subject {subject} in {cache}; give its file with --data FILE, or a number as "
        f"1, 01 or subj01; subjects prepared: {listing(sorted(there))} (--subject, --sessions, --mask)"
    )


def _described(request: dict[str, Any]) -> str:
    preparation = request.get("preparation")
    return f"sessions {ranges(request['sessions'])}" + (f", {preparation}" if preparation else "")


def _matches(path: Path, sessions: str | None, mask: str | None, betas: str | None) -> bool:
    """Whether a store is what was asked, as far as that can be told without the root."""
    attrs = attributes(path)
    if sessions is not None and attrs["request"]["sessions"] != parse_sessions(sessions):
        return False
    if betas is not None and attrs["request"].get("preparation") != preparation_of(betas):
        return False
    if mask is None or attrs["mask"] in (mask, from_anywhere(mask)):
        return True
    return Path(mask).is_file() and attrs["request"]["mask"] == identity.whole(Path(mask))


def areas_of(subject: Subject, cache: Path, data_root: Path | None) -> Areas:
    """Areas of a subject: of its cached responses where there is one set of them, else read from the root.

    Raises
    ------
    MismatchError
        If those were made from other inputs than those under the root.
    BoldreamsError
        If there is neither.
    """
    data_root = root_of(cache, subject, data_root)
    cached, dataset = complete_stores(cache, subject), at_hand(data_root, subject)
    if len(cached) != 1:
        return (dataset or dataset_for(cache, subject, data_root)).areas(subject)
    responses = Responses.open(cached[0])
    if dataset is not None:
        check_inputs(responses, dataset)
    return responses.areas


def names_of(request: Mapping[str, Any]) -> str | None:
    """Hash of what identifies the images that responses are to; None where a data set numbers its images for all."""
    return identity.of_named_images(request.get("images"))
