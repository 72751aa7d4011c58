"""What happens to the chain while a person waits, in one line on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from shardline.core.ids import short

if TYPE_CHECKING:
    from shardline.client import Mended

__all__ = ["news_line", "tell"]


def news_line(news: Mended | str) -> str:
    """Who took over from whom, or what is waited for."""
    if isinstance(news, str):
        return f"{news}: waiting for one"
    lost = ", ".join(f"{short(hop.node)} ({hop.span})" for hop in news.lost)
    by = ", ".join(f"{short(hop.node)} ({hop.span})" for hop in news.hops)
    return f"{by} took over from {lost}: {news.reasons[0]}"


def tell(news: Mended | str) -> None:
    """Say it beside the text, not in it."""
    click.echo(f"shardline: {news_line(news)}", err=True)
