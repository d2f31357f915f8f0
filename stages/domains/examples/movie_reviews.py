"""10,605 sentences of film reviews, rated from negative to positive. Half of them are positive."""

from __future__ import annotations

from stages.domains.examples._opinions import opinions

EXAMPLE = opinions(
    "movie-reviews", of="movieReviewSnippets", origin="Film reviews from rottentomatoes.com (Pang and Lee 2004)"
)
