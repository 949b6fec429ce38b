"""What the methods cite, as BibTeX."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """One work.

    Parameters
    ----------
    short : as it is cited in the text.
    kind, fields : of its BibTeX entry.
    """

    short: str
    kind: str
    fields: dict[str, str]

    def bibtex(self, key: str) -> str:
        """The entry."""
        lines = [f"  {name} = {{{value}}}," for name, value in self.fields.items()]
        return "\n".join([f"@{self.kind}{{{key},", *lines, "}"])

    @property
    def text(self) -> str:
        """For a list of references."""
        said = self.fields
        where = said.get("journal") or said.get("booktitle") or f"arXiv {said.get('eprint', '')}"
        return f"{said['author'].replace(' and ', '; ')} ({said['year']}). {said['title']}. {where}."


REFERENCES = {
    "boldreams": Reference(
        "Hussain and Uludağ, 2025",
        "misc",
        {
            "author": "Hussain, Uzair and Uludağ, Kamil",
            "title": "{BOLDreams}: Dreaming with pruned in-silico {fMRI} Encoding Models of the Visual Cortex",
            "year": "2025",
            "eprint": "2501.14854",
            "archiveprefix": "arXiv",
        },
    ),
    "nsd": Reference(
        "Allen et al., 2022",
        "article",
        {
            "author": "Allen, Emily J. and St-Yves, Ghislain and Wu, Yihan and others",
            "title": "A massive {7T fMRI} dataset to bridge cognitive neuroscience and artificial intelligence",
            "journal": "Nature Neuroscience",
            "volume": "25",
            "pages": "116--126",
            "year": "2022",
        },
    ),
    "fwrf": Reference(
        "St-Yves and Naselaris, 2018",
        "article",
        {
            "author": "St-Yves, Ghislain and Naselaris, Thomas",
            "title": "The feature-weighted receptive field: an interpretable encoding model for complex feature spaces",
            "journal": "NeuroImage",
            "volume": "180",
            "pages": "188--202",
            "year": "2018",
        },
    ),
    "adam": Reference(
        "Kingma and Ba, 2015",
        "inproceedings",
        {
            "author": "Kingma, Diederik P. and Ba, Jimmy",
            "title": "Adam: A Method for Stochastic Optimization",
            "booktitle": "International Conference on Learning Representations",
            "year": "2015",
        },
    ),
    "bh": Reference(
        "Benjamini and Hochberg, 1995",
        "article",
        {
            "author": "Benjamini, Yoav and Hochberg, Yosef",
            "title": "Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple Testing",
            "journal": "Journal of the Royal Statistical Society, Series B",
            "volume": "57",
            "pages": "289--300",
            "year": "1995",
        },
    ),
    "ig": Reference(
        "Sundararajan et al., 2017",
        "inproceedings",
        {
            "author": "Sundararajan, Mukund and Taly, Ankur and Yan, Qiqi",
            "title": "Axiomatic Attribution for Deep Networks",
            "booktitle": "International Conference on Machine Learning",
            "year": "2017",
        },
    ),
    "visualization": Reference(
        "Olah et al., 2017",
        "article",
        {
            "author": "Olah, Chris and Mordvintsev, Alexander and Schubert, Ludwig",
            "title": "Feature Visualization",
            "journal": "Distill",
            "year": "2017",
        },
    ),
    "clip": Reference(
        "Radford et al., 2021",
        "inproceedings",
        {
            "author": "Radford, Alec and Kim, Jong Wook and Hallacy, Chris and others",
            "title": "Learning Transferable Visual Models From Natural Language Supervision",
            "booktitle": "International Conference on Machine Learning",
            "year": "2021",
        },
    ),
}
