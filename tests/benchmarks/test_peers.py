"""Peers are named in one registry."""

from __future__ import annotations

import pytest

from vcut_bench.peers import PEERS, choose_peers
from vcut_runtime import UsageError


def test_peers_are_chosen_by_name() -> None:
    assert choose_peers("all") == list(PEERS)
    assert choose_peers("none") == []
    assert choose_peers("tgate, diffusers,tgate") == ["tgate", "diffusers"]
    with pytest.raises(UsageError, match="unknown --peers 'nobody'"):
        choose_peers("diffusers,nobody")


def test_exact_peers_make_the_video_of_diffusers() -> None:
    assert all(peer.title for peer in PEERS.values())
    exact = {"diffusers", "diffusers-compiled", "onnxruntime-unfolded", "tensorrt-unfolded"}
    assert {name for name, peer in PEERS.items() if peer.exact} == exact
    assert {name for name, peer in PEERS.items() if peer.reuses} == {"deepcache", "deepcache-2", "tgate"}
