"""4,200 tweets, users and links made anonymous, rated from negative to positive. Seven in ten are positive."""

from __future__ import annotations

from stages.domains.examples._opinions import opinions

EXAMPLE = opinions("tweets", of="tweets", origin="Tweets of 2013")
