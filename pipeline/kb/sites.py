"""Say which sites are Wikipedias, by their names."""

from __future__ import annotations

# Sites whose names end in "wiki" and that are no Wikipedia.
NOT_WIKIPEDIA = frozenset(
    (
        "commonswiki",
        "specieswiki",
        "metawiki",
        "wikidatawiki",
        "mediawikiwiki",
        "sourceswiki",
        "incubatorwiki",
        "outreachwiki",
        "wikimaniawiki",
        "foundationwiki",
        "wikifunctionswiki",
        "testwiki",
        "betawikiversitywiki",
    )
)


class _Wikipedias(dict[str, int]):
    """Give 1 for the name of a Wikipedia, else 0; each name is examined once."""

    def __missing__(self, site: str) -> int:
        self[site] = int(site.endswith("wiki") and site not in NOT_WIKIPEDIA)
        return self[site]


WIKIPEDIAS = _Wikipedias()
