"""Settings of shards as a file, as people write it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from real_servers.shards import Shards


def settings_file(shards: Shards, folder: Path, *, cache_url: str | None = None, **urls: str) -> Path:
    """Of all shards, with the catalogue on the first; *urls* go before the shards' own."""
    path = folder / "tidegate.toml"
    lines = ['[sharding]\ncatalogue = "s0"']
    if cache_url is not None:
        lines.append(f'[cache]\nurl = "{cache_url}"\nconnect_timeout_ms = 5000\nread_timeout_ms = 5000')
    for name, engine in shards.engines.items():
        url = urls.get(name, engine.url.render_as_string(hide_password=False))
        lines.append(f'[[shards]]\nname = "{name}"\nprimary = "{url}"')
    path.write_text("\n".join(lines))
    return path
