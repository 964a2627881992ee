"""Who takes part in the comparisons."""

from __future__ import annotations

from benchmarks.contest import Contestant

HAND, HAND_BYTES, LOADER, FLOOR = "by hand", "by hand, bytes", "torch DataLoader", "floor: the large products"
OURS, OURS_BYTES = "clearloop", "clearloop, bytes"
ONE_STEP, FAST = "clearloop, compiled", "clearloop, 8 steps a call"
PEERS = {
    "skorch": "skorch",
    "Ignite": "ignite",
    "Accelerate": "accelerate",
    "fastai": "fastai",
    "Lightning": "lightning",
    "Keras": "keras",
}
ABSENT = {
    "Composer": "mosaicml 0.32.1, its newest release, asks for torch below 2.7.1: no environment holds both it and ours"
}
LONG_S = 8.0  # of rounds, for those that targets are about


def tuned(peer: str) -> str:
    """The name of a peer's second line."""
    return f"{peer}, tuned"


def contestants(
    floor: bool = False, as_bytes: bool = False, eight: bool = False, peers_tuned: bool = True
) -> list[Contestant]:
    """All of them.

    Args: `floor`, where a net has linear layers; `as_bytes`, where the data are images held as bytes; `eight`, also
    eight compiled steps a call, which take long to compile and gain something where steps are short; `peers_tuned`,
    also libraries with what makes batches and bookkeeping cheap, which shows where steps are short.
    """
    found = [Contestant(FLOOR, "plain", "floor", compared=False, share_s=LONG_S)] if floor else []
    found += [
        Contestant(HAND, "plain", "hand", exact=True, share_s=LONG_S),
        Contestant(OURS, "ours", "off", exact=True, share_s=LONG_S),
        Contestant(ONE_STEP, "ours", "compile", compiles=True),
        Contestant(LOADER, "plain", "loader", exact=True, share_s=LONG_S),
    ]
    if eight:
        found.append(Contestant(FAST, "ours", "compile:8", compiles=True, share_s=LONG_S))
    if as_bytes:
        found += [
            Contestant(HAND_BYTES, "plain", "hand-bytes", base=HAND_BYTES, exact=True, share_s=LONG_S),
            Contestant(OURS_BYTES, "ours", "off-bytes", base=HAND_BYTES, exact=True, share_s=LONG_S),
        ]
    for name, script in PEERS.items():
        found.append(Contestant(name, script, "documented", environment=script))
        if peers_tuned:
            found.append(Contestant(tuned(name), script, "tuned", environment=script))
    return found
