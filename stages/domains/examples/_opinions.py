"""The rated snippets of Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social
Media Text", ICWSM 2014: texts with the mean of at least 20 people's ratings, from -4 to 4.

The label is the sign of that mean; a mean of 0 has none.
"""

from __future__ import annotations

import html
import io
import tarfile
from functools import partial
from typing import TYPE_CHECKING

from stages.domains.examples.base import Example
from stages.domains.fetch import Member

if TYPE_CHECKING:
    import numpy as np

NEGATIVE, POSITIVE = "negative", "positive"
_ARCHIVE = Member(
    package="vaderSentiment",
    version="0.5",
    path="vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz",
    sha256="d5bb07d87474b3eb8d30b4deccbc23f19d742a6c5718fbacc65485b70b95c5fa",
    source_sha256="5d97c37f3ef6e24eef331122e055dbedafeb6a56abfce0608b326701116ea49a",
)


def opinions(name: str, of: str, origin: str) -> Example:
    """The example called `name`: the file `of` the archive, texts from `origin`."""
    return Example(
        name=name,
        licence=f"{origin}; rated by Hutto and Gilbert (cite their paper), comes with vaderSentiment, MIT; the texts "
        "are their authors'",
        members=(_ARCHIVE,),
        parse=partial(_parse, of=of),
    )


def _parse(data: bytes, of: str) -> dict[str, np.ndarray]:
    """`sample_id`, `text` (its HTML entities resolved), `rating`, and `label` ('' for a rating of 0)."""
    import numpy as np

    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile(f"hutto_ICWSM_2014/{of}_GroundTruth.txt")
        lines = file.read().decode("utf-8").split("\r\n") if file else []
    ids, ratings, texts = zip(*(line.split("\t") for line in lines if line), strict=True)
    rating = np.array(ratings, np.float64)
    return {
        "sample_id": np.array(ids),
        "text": np.array([html.unescape(text) for text in texts]),
        "rating": rating,
        "label": np.array(["", POSITIVE, NEGATIVE])[np.sign(rating).astype(int)],
    }
