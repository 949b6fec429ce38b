"""The vocabularies: of the real Brown corpus, of a small one, of a file."""

import re
import shutil
import zipfile
from pathlib import Path

import pytest

from boldreams_cli.console import BoldreamsError, ChoiceError
from boldreams_cli.interpret.words import vocabulary
from tests.conftest import SHARED

ZIP = SHARED / "brown.zip"
needs_brown = pytest.mark.skipif(not ZIP.is_file(), reason=f"needs NLTK's Brown corpus in {ZIP}")


@pytest.fixture
def nltk_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder in which NLTK looks."""
    import nltk

    folder = tmp_path / "nltk_data"
    (folder / "corpora").mkdir(parents=True)
    monkeypatch.setattr(nltk.data, "path", [str(folder)])
    return folder


@pytest.fixture(scope="module")
def documents() -> list[str]:
    if not ZIP.is_file():
        pytest.skip(f"needs NLTK's Brown corpus in {ZIP}")
    with zipfile.ZipFile(ZIP) as archive:
        names = sorted(name for name in archive.namelist() if re.search(r"/c\w\d\d$", name))
        return [archive.read(name).decode() for name in names]


@needs_brown
def test_brown_from_the_bare_zip(nltk_path: Path, tmp_path: Path) -> None:
    shutil.copy(ZIP, nltk_path / "corpora")
    found = vocabulary.find("brown", tmp_path / "cache")
    assert found.name == "brown"
    assert len(found.words) == len(set(found.words)) == 10_000
    assert all(word.isalpha() and word == word.lower() for word in found.words)
    places = {word: place for place, word in enumerate(found.words)}
    assert places["time"] == 0
    assert places["man"] == 1
    assert places["year"] < 20  # singular and plural apart: a cloud shows one of them
    assert not {"af", "aj", "one", "something", "nothing"} & set(found.words)
    assert min(map(len, found.words)) == 3
    plurals = {"houses": "house", "women": "woman", "planes": "plane", "cities": "city", "glasses": "glass"}
    plurals |= {"wives": "wife", "waves": "wave", "motives": "motive", "leaves": "leaf", "crises": "crisis"}
    assert {word: found.singulars.get(word) for word in plurals} == plurals
    assert not {"news", "physics", "series", "house", "glass", "dress"} & set(found.singulars)
    raw = vocabulary.find("brown", tmp_path / "cache", raw=True)
    assert (raw.name, len(raw.words), raw.singulars) == ("brown-raw", 10_000, {})
    assert {"af", "something"} <= set(raw.words)
    assert raw.digest != found.digest
    # With the corpus gone, the list in the cache is enough.
    (nltk_path / "corpora" / "brown.zip").unlink()
    assert vocabulary.find("brown", tmp_path / "cache") == found
    assert vocabulary.find("brown", tmp_path / "cache", raw=True) == raw


@needs_brown
def test_unpacked_corpus_gives_the_same(nltk_path: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(ZIP) as archive:
        archive.extractall(nltk_path / "corpora")
    unpacked = vocabulary.brown()
    shutil.rmtree(nltk_path / "corpora" / "brown")
    (nltk_path / "corpora" / "brown.zip").symlink_to(ZIP)
    assert vocabulary.brown() == unpacked


def test_noun_tags_are_those_of_the_universal_map(documents: list[str]) -> None:
    """NLTK's en-brown.map makes 275,558 of the corpus's 1,161,192 words nouns.

    We leave out seven: contractions and compounds such as stomach-belly, all but one with a sign inside.
    """
    tags = [token.rpartition("/")[2].upper() for text in documents for token in text.split()]
    assert len(tags) == 1_161_192
    assert sum(vocabulary.NOUN.fullmatch(tag) is not None for tag in tags) == 275_558 - 7


def test_counts_after_lower_casing(documents: list[str]) -> None:
    from collections import Counter

    counts: Counter[str] = Counter()
    some = documents[:40]
    for text in some:
        for token in text.split():
            word, tag = token.rsplit("/", 1)
            if re.match(r"(nn|np|nr|pn)", tag.lower()) and "+" not in tag and word.isalpha():
                counts[word.lower()] += 1
    expected = [word for word, _ in counts.most_common(2000)]
    assert vocabulary.common_nouns(some, 2000, raw=True) == (expected, {})


def test_common_nouns_of_a_small_text() -> None:
    text = "The/at Dog/nn-tl dog/nn Dog's/nn$ runs/vbz ./. U.S./np Paris/np-hl cat/nn something/pn  chien/fw-nn Cat/NN"
    assert vocabulary.common_nouns([text], 10, raw=True)[0] == ["dog", "cat", "paris", "something"]
    assert vocabulary.common_nouns([text], 10)[0] == ["dog", "cat", "paris"]
    assert vocabulary.common_nouns([text], 1)[0] == ["dog"]


def test_plurals_are_told_by_their_tags() -> None:
    text = "dogs/nns dog/nn news/nn new/nn men/nns-tl man/nn sheets/nns works/nns works/nn works/nn work/nn af/nn"
    words, singulars = vocabulary.common_nouns([text], 20)
    assert "af" not in words
    assert singulars == {"dogs": "dog", "men": "man"}


def test_without_corpus_the_error_says_both_ways(
    nltk_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import nltk

    def refuse(*_: object, **__: object) -> None:
        raise ValueError("no way out")

    monkeypatch.setattr(nltk, "download", refuse)
    with pytest.raises(BoldreamsError, match=r"no way out.*NLTK_DATA.*nltk\.downloader brown.*--vocabulary FILE"):
        vocabulary.find("brown", tmp_path)
    monkeypatch.setattr(nltk, "download", lambda *_, **__: True)  # says it did, and did not
    with pytest.raises(BoldreamsError, match="NLTK_DATA"):
        vocabulary.find("brown", tmp_path)


def test_downloads_where_nltk_can(nltk_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    def download(*_: object, **__: object) -> bool:
        with zipfile.ZipFile(nltk_path / "corpora" / "brown.zip", "w") as archive:
            archive.writestr("brown/ca01", "a/at dog/nn")
            archive.writestr("brown/CONTENTS", "contents/nn")
        return True

    monkeypatch.setattr(nltk, "download", download)
    assert vocabulary.brown() == (["dog"], {})


def test_damaged_zip(nltk_path: Path) -> None:
    (nltk_path / "corpora" / "brown.zip").write_bytes(b"PK no")
    with pytest.raises(BoldreamsError, match="damaged"):
        vocabulary.brown()


def test_imagenet_has_a_thousand_distinct_names(tmp_path: Path) -> None:
    found = vocabulary.find("imagenet", tmp_path)
    assert len(set(found.words)) == 1000
    assert found.words[0] == "tench"


def test_file_of_words(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("dog\n\n  polar bear \ndog\nÉtoile\n", encoding="utf-8")
    assert vocabulary.find(str(path), tmp_path) == vocabulary.Vocabulary("mine", ("dog", "polar bear", "Étoile"))
    path.write_text("\n \n")
    with pytest.raises(BoldreamsError, match="holds no words"):
        vocabulary.find(str(path), tmp_path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BoldreamsError, match="UTF-8"):
        vocabulary.find(str(path), tmp_path)
    with pytest.raises(ChoiceError, match="--raw is of Brown's nouns"):
        vocabulary.find("imagenet", tmp_path, raw=True)
    with pytest.raises(ChoiceError, match="brown, imagenet or a file"):
        vocabulary.find("brwon", tmp_path)
