"""What a turn may need at its end, loaded while its tool runs.

csa may be upgraded, moved or removed meanwhile: a module imported later may be gone, or from another version.
Modules are loaded piece by piece, between events; a turn that ends before that is complete does not wait for it.
"""

from __future__ import annotations

from importlib import import_module

from csa.process.launch import remember_guardian

_END = (
    "csa_adapters.failures",
    "csa.runner.turns.retrying",
    "csa.store.checkpoints",
    "csa.runner.turns.checkpointing",
    "csa.runner.on_finish",
    "csa.store.tomlfile",
    "tomllib",
    "hashlib",
    "shutil",
    "unicodedata",
    "tomlkit",  # takes the longest, and is only needed for records that somebody has edited
)
_DECODERS = (
    "csa_adapters.acp_stream",
    "csa_adapters.claude_stream",
    "csa_adapters.codex_stream",
    "csa_adapters.gemini_stream",
    "csa_adapters.opencode_stream",
)
_BEGINNING = ("anyio._backends._asyncio",)
_PACKAGES = ("csa.model", "csa.store", "csa.runner.turns", "csa_adapters")


async def load_ahead(*, with_other_tools: bool) -> None:
    """Load what the end may need, and the decoders of tools that may take over, yielding to the event loop between."""
    from anyio.lowlevel import checkpoint  # noqa: PLC0415  # load_at_once is for callers without a loop

    remember_guardian()
    for name in (*_END, *(_DECODERS if with_other_tools else ())):
        import_module(name)
        await checkpoint()


def load_at_once(*others: str, packages: tuple[str, ...] = ()) -> None:
    """Load what a turn may need from its start, other modules, and all of `packages`: for callers that wait first."""
    from pkgutil import iter_modules  # noqa: PLC0415  # every run loads this module, and few wait

    remember_guardian()
    for package in (*_PACKAGES, *packages):
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    for name in (*_BEGINNING, *_END, *others):
        import_module(name)
