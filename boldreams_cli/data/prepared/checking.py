"""Whether a subject's prepared responses are still those of the data set under the root."""

from __future__ import annotations

from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, MismatchError, StopFlag, listing, logger
from boldreams_cli.data import identity
from boldreams_cli.data.areas import parts_of
from boldreams_cli.data.dataset import Dataset
from boldreams_cli.data.responses import SESSION, SOURCE, Responses
from boldreams_cli.data.sessions import ranges


def check_inputs(responses: Responses, dataset: Dataset, stop: StopFlag | None = None) -> None:
    """Check that all that responses were made from is still the same in the data set.

    Small files are hashed whole; betas are read again only where a file's size or time of change is another.

    Parameters
    ----------
    responses : whose inputs to compare.
    dataset : that is at hand; nothing is compared where it has no betas of the subject.
    stop : looked at while betas are read.

    Raises
    ------
    MismatchError
        If something differs; the message names it.
    """
    dataset = dataset.of_request(responses.request)
    if lacking := dataset.lacking(responses.subject):
        logger.info("%s: %s is taken as it is", lacking, responses.path)
        return
    made = responses.request
    mask = responses.mask
    files = [] if mask is None or made["mask"] is None else [Path(part) for part in parts_of(mask)]
    gone = any(path.is_absolute() and not path.is_file() for path in files)
    try:
        now = dataset.request(responses.subject, ranges(responses.sessions), None if gone else mask)
    except ChoiceError as error:
        raise MismatchError(f"{responses.path} was made from more than there is now: {error}") from error
    if gone:
        logger.info("the mask %s is gone: it is not compared", mask)
        now["mask"] = made["mask"]
    if changed := identity.differences(made, now):
        raise MismatchError(
            f"{responses.path} was made from other inputs than those under {dataset.root} now ({listing(changed)}); "
            f"run `boldreams prepare --subject {responses.subject}` and fit again, or "
            "correct --nsd-root, --data or --cache"
        )
    check_betas(responses, dataset, stop)


def check_betas(responses: Responses, dataset: Dataset, stop: StopFlag | None = None) -> None:
    """Compare the betas of files that changed since they were prepared, as their size and time of change say.

    Raises
    ------
    MismatchError
        If one holds other betas; the message names it.
    """
    files, noted = dataset.session_files(responses.subject), responses.store.last(SOURCE)
    for session, line in responses.store.done(SESSION).items():
        now, said = identity.stamps(files[int(session)]), listing(files[int(session)])
        if now in (line["source"], noted.get(session, {}).get("source")):
            continue
        logger.info("%s was copied or changed since it was prepared: comparing its betas", said)
        betas = dataset.read_betas(responses.subject, int(session), responses.voxels, responses.shape, stop)
        if identity.content(betas) != line["content"]:
            raise MismatchError(
                f"{said} holds other betas than those that {responses.path} was made from; restore it, "
                f"or delete {responses.path} and run `boldreams prepare --subject {responses.subject}`"
            )
        try:
            responses.store.add(SOURCE, session, source=now)
        except BoldreamsError as error:  # a cache that is only read: compared again next time
            logger.debug("%s", error)
