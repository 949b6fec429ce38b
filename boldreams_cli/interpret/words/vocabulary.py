"""The words that a cloud chooses from (paper, section 2.3)."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from boldreams_cli.console import BoldreamsError, ChoiceError, logger
from boldreams_cli.files import fingerprint, saving_work, write_text

SIZE = 10_000
BROWN_FILE = re.compile(r"c[a-r]\d\d")
# Brown tags that the universal tag set calls NOUN, any suffix of headline, title or citation (-HL -TL -NC) aside:
# common, proper and adverbial nouns, and nominal pronouns ("something"). Foreign words (FW-) are X there, and
# contractions (NN+BEZ) hold an apostrophe. Kept here, because the map is a download of its own in NLTK.
NOUN = re.compile(r"(?:NNS?|NPS?|NRS?|PN)\$?(?:-[A-Z]+)*")
PLURAL = re.compile(r"N[NPR]S\b.*")
LETTERS = 3  # shortest word that is a thing: Brown has the formula codes af and aj, initials and units below that
IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "feet": "foot", "teeth": "tooth", "mice": "mouse",
    "geese": "goose", "lives": "life", "leaves": "leaf",
}  # fmt: skip
# Endings of plurals and of what singular, in the order in which they are tried: planes are no plans, motives no motif.
ENDINGS = (("men", "man"), ("ies", "y"), ("s", ""), ("ves", "f"), ("ves", "fe"), ("es", ""), ("es", "is"))


@dataclass(frozen=True)
class Vocabulary:
    """Words to choose from, most common first where that is known.

    Parameters
    ----------
    name : ``brown``, ``brown-raw``, ``imagenet``, or the name of the file.
    words : distinct.
    kind : ``brown``, ``imagenet`` or ``file``; a file may have any name.
    singulars : of plurals among the words, the word that they are the plural of; a cloud shows one of the two.
    """

    name: str
    words: tuple[str, ...]
    kind: str = "file"
    singulars: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of the words and of which are the same word."""
        return fingerprint([self.words, dict(self.singulars)] if self.singulars else self.words)


def find(asked: str, cache: Path, raw: bool = False) -> Vocabulary:
    """Resolve ``--vocabulary``.

    Parameters
    ----------
    asked : ``brown``, ``imagenet``, or a file of one word a line.
    cache : where the list of Brown's nouns is kept, so that a machine without the corpus has it too.
    raw : Brown's nouns to the letter of the paper: with codes, pronouns and plurals as words of their own.

    Raises
    ------
    ChoiceError
        If it is none of these, or raw and not Brown's.
    BoldreamsError
        If the corpus cannot be had, or the file holds no words.
    """
    if raw and asked != "brown":
        raise ChoiceError(f"--raw is of Brown's nouns; leave it out with --vocabulary {asked}")
    if asked == "brown":
        return _brown(cache, raw)
    if asked == "imagenet":
        return Vocabulary("imagenet", imagenet(), "imagenet")
    path = Path(asked).expanduser()
    if not path.is_file():
        raise ChoiceError(f"no vocabulary {asked!r}: --vocabulary takes brown, imagenet or a file of one word a line")
    return Vocabulary(path.stem, _lines(path))


def _brown(cache: Path, raw: bool) -> Vocabulary:
    """Brown's nouns, from the list in the cache: one a line, of a plural the singular behind a tab."""
    kept = cache / "vocabularies" / (f"brown-{SIZE}.txt" if raw else f"brown-nouns-{SIZE}.txt")
    if kept.is_file():
        lines = [line.split("\t") for line in _lines(kept)]
        words, singulars = [line[0] for line in lines], {line[0]: line[1] for line in lines if len(line) == 2}
    else:
        words, singulars = brown(raw)
        with saving_work(kept):
            write_text(
                kept, "".join(f"{word}\t{singulars[word]}\n" if word in singulars else f"{word}\n" for word in words)
            )
    return Vocabulary("brown-raw" if raw else "brown", tuple(words), "brown", singulars)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = (line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines())
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


def brown(raw: bool = False) -> tuple[list[str], dict[str, str]]:
    """The 10,000 most common nouns of the Brown corpus, see `common_nouns`.

    Raises
    ------
    BoldreamsError
        If the corpus is not on the machine and cannot be downloaded.
    """
    return common_nouns(_brown_texts(), SIZE, raw)


def common_nouns(texts: Iterable[str], count: int, raw: bool = False) -> tuple[list[str], dict[str, str]]:
    """Count the nouns of tagged texts.

    Words are lower-cased before they are counted; those of equal count stand in the order in which the texts first
    have them, as `nltk.FreqDist.most_common` has it.

    Parameters
    ----------
    texts : words as ``word/tag`` with tags of the Brown corpus, between white space.
    count : of nouns to give at most.
    raw : also nominal pronouns ("something") and words of one or two letters, and no plural is told from its singular.

    Returns
    -------
    Distinct lower-case alphabetic words, most common first; of plurals among them whose singular is too, that.
    """
    counts: Counter[str] = Counter()
    plurals: Counter[str] = Counter()
    for text in texts:
        for token in text.split():
            word, _, tag = token.rpartition("/")
            tag = tag.upper()
            if not word.isalpha() or not NOUN.fullmatch(tag):
                continue
            if not raw and (tag.startswith("PN") or len(word) < LETTERS):
                continue
            counts[word.lower()] += 1
            plurals[word.lower()] += PLURAL.fullmatch(tag) is not None
    words = [word for word, _ in counts.most_common(count)]
    if raw:
        return words, {}
    return words, _singulars(words, [word for word in words if 2 * plurals[word] > counts[word]])


def _singulars(words: Sequence[str], plurals: Sequence[str]) -> dict[str, str]:
    """Of those plurals whose singular is among the words, the singular: by the tags news has none."""
    known = set(words) - set(plurals)
    found = {}
    for word in plurals:
        endings = [word.removesuffix(ending) + instead for ending, instead in ENDINGS if word.endswith(ending)]
        singular = next((form for form in (IRREGULAR.get(word), *endings) if form in known), None)
        if singular is not None:
            found[word] = singular
    return found


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
