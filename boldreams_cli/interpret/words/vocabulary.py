"""The words that a cloud chooses from (paper, section 2.3)."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, logger
from boldreams_cli.files import fingerprint, write_text

SIZE = 10_000
BROWN_FILE = re.compile(r"c[a-r]\d\d")
# Brown tags that the universal tag set calls NOUN, any suffix of headline, title or citation (-HL -TL -NC) aside:
# common, proper and adverbial nouns, and nominal pronouns ("something"). Foreign words (FW-) are X there, and
# contractions (NN+BEZ) hold an apostrophe. Kept here, because the map is a download of its own in NLTK.
NOUN = re.compile(r"(?:NNS?|NPS?|NRS?|PN)\$?(?:-[A-Z]+)*")


@dataclass(frozen=True)
class Vocabulary:
    """Words to choose from, most common first where that is known.

    Parameters
    ----------
    name : ``brown``, ``imagenet``, or the name of the file.
    words : distinct.
    kind : ``brown``, ``imagenet`` or ``file``; a file may have any name.
    """

    name: str
    words: tuple[str, ...]
    kind: str = "file"

    @property
    def digest(self) -> str:
        """Hash of the words."""
        return fingerprint(self.words)


def find(asked: str, cache: Path) -> Vocabulary:
    """Resolve ``--vocabulary``.

    Parameters
    ----------
    asked : ``brown``, ``imagenet``, or a file of one word a line.
    cache : where the list of Brown's nouns is kept, so that a machine without the corpus has it too.

    Raises
    ------
    ChoiceError
        If it is none of these.
    BoldreamsError
        If the corpus cannot be had, or the file holds no words.
    """
    if asked == "brown":
        kept = cache / "vocabularies" / f"brown-{SIZE}.txt"
        if not kept.is_file():
            write_text(kept, "\n".join(brown()) + "\n")
        return Vocabulary("brown", _lines(kept), "brown")
    if asked == "imagenet":
        return Vocabulary("imagenet", imagenet(), "imagenet")
    path = Path(asked).expanduser()
    if not path.is_file():
        raise ChoiceError(f"no vocabulary {asked!r}: --vocabulary takes brown, imagenet or a file of one word a line")
    return Vocabulary(path.stem, _lines(path))


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    except UnicodeDecodeError as error:
        raise BoldreamsError(f"{path} is no text in UTF-8 ({error}); --vocabulary takes one word a line") from error
    words = tuple(dict.fromkeys(line for line in lines if line))
    if not words:
        raise BoldreamsError(f"{path} holds no words; --vocabulary takes a file of one word a line")
    return words


def imagenet() -> tuple[str, ...]:
    """The 1000 classes' names, as torchvision writes them, in the classifiers' order."""
    import torchvision

    return tuple(torchvision.models.AlexNet_Weights.IMAGENET1K_V1.meta["categories"])


def brown() -> list[str]:
    """The 10,000 most common nouns of the Brown corpus.

    Words are lower-cased before they are counted; those of equal count stand in the order in which the corpus
    first has them, as `nltk.FreqDist.most_common` has it.

    Raises
    ------
    BoldreamsError
        If the corpus is not on the machine and cannot be downloaded.
    """
    return common_nouns(_brown_texts(), SIZE)


def common_nouns(texts: Iterable[str], count: int) -> list[str]:
    """Count the nouns of tagged texts.

    Parameters
    ----------
    texts : words as ``word/tag`` with tags of the Brown corpus, between white space.
    count : of nouns to give at most.

    Returns
    -------
    Distinct lower-case alphabetic words, most common first.
    """
    counts: Counter[str] = Counter()
    for text in texts:
        for token in text.split():
            word, _, tag = token.rpartition("/")
            if word.isalpha() and NOUN.fullmatch(tag.upper()):
                counts[word.lower()] += 1
    return [word for word, _ in counts.most_common(count)]


def _brown_texts() -> Iterator[str]:
    """The corpus, document by document in the order of their names."""
    import nltk

    place = _brown_place(nltk.data.path)
    if place is None:
        logger.info("the Brown corpus is not in %s: downloading it", ", ".join(map(str, nltk.data.path[:3])))
        _download()
        place = _brown_place(nltk.data.path)
    if place is None:
        raise _no_brown(f"it is in none of {', '.join(map(str, nltk.data.path))}")
    try:
        if place.is_dir():
            for path in sorted(path for path in place.iterdir() if BROWN_FILE.fullmatch(path.name)):
                yield path.read_text(encoding="ascii")
        else:
            with zipfile.ZipFile(place) as archive:
                names = sorted(name for name in archive.namelist() if BROWN_FILE.fullmatch(name.rpartition("/")[2]))
                for name in names:
                    yield archive.read(name).decode("ascii")
    except (zipfile.BadZipFile, UnicodeDecodeError) as error:
        raise BoldreamsError(f"{place} is damaged ({error}); delete it and download it again") from error


def _brown_place(folders: Iterable[str]) -> Path | None:
    """The corpus in one of NLTK's folders, unpacked or as the zip that NLTK downloads."""
    for folder in folders:
        for name in ("corpora/brown", "corpora/brown.zip"):
            place = Path(folder) / name
            if (place / "ca01").is_file() or (place.suffix and place.is_file()):
                return place
    return None


def _download() -> None:
    import nltk

    try:
        with warnings.catch_warnings():  # of folders it will not write to; the error below says what to do
            warnings.simplefilter("ignore")
            nltk.download("brown", quiet=True, raise_on_error=True, print_error_to=io.StringIO())
    except (ValueError, OSError) as error:
        raise _no_brown(str(error)) from error


def _no_brown(why: str) -> BoldreamsError:
    return BoldreamsError(
        f"cannot get the Brown corpus: {why}. Put NLTK's brown.zip into a folder corpora/ and name the folder above "
        "it in NLTK_DATA, or run `python -m nltk.downloader brown` where there is internet; or give --vocabulary FILE"
    )
