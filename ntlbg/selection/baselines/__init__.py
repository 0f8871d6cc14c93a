"""Twenty-four ways to choose k frames behind one signature, written from their published formulas.

>>> from ntlbg.selection.baselines import BASELINES
>>> indices = BASELINES["aks"](frames, query, k=16)  # frames (N, d) unit rows, query (d,) or None  # doctest: +SKIP

See `pool.selector` for the signature. `k_means` and `wfs_sb` need `pip install 'ntlbg[bench]'`.
"""

from ntlbg.selection.baselines.bandit import focus
from ntlbg.selection.baselines.clustering import k_means, k_medoids
from ntlbg.selection.baselines.diverse import facility_location, farthest_point, greedy_dpp, log_det, mdp3, mmr
from ntlbg.selection.baselines.pool import Selector
from ntlbg.selection.baselines.reference import median_shell, oracle, random, strata, uniform
from ntlbg.selection.baselines.scenes import coselect, scene_tiling, wfs_sb
from ntlbg.selection.baselines.scored import ada_q, aks, bolt, q_frame, stratified_top_k, temporal_nms, top_k


BASELINES: dict[str, Selector] = {
    select.__name__: select
    for select in (
        uniform,
        random,
        top_k,
        stratified_top_k,
        temporal_nms,
        mmr,
        aks,
        bolt,
        q_frame,
        ada_q,
        greedy_dpp,
        mdp3,
        k_means,
        k_medoids,
        facility_location,
        farthest_point,
        log_det,
        scene_tiling,
        coselect,
        wfs_sb,
        focus,
        median_shell,
        oracle,
        strata,
    )
}

__all__ = ["BASELINES", "Selector"]
