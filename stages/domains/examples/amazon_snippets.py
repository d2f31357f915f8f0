"""3,708 sentences of customers' reviews of five products, rated from negative to positive. Six in ten are positive."""

from __future__ import annotations

from stages.domains.examples._opinions import opinions

EXAMPLE = opinions(
    "amazon-snippets", of="amazonReviewSnippets", origin="Customer reviews from amazon.com (Hu and Liu 2004)"
)
