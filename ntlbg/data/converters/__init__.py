"""Published annotations as rows of ours; a file a benchmark: `read(path)` gives its items, `convert(item)` their rows.

`convert` raises `BadRow` for an item that cannot become rows; what else a row has to be, `qa_records.parse_row` says.
"""

# Each has a module of its name here.
BENCHMARKS = {
    "activitynet_captions": "ActivityNet Captions (Krishna et al. 2017, arXiv 1705.00754)",
    "activitynet_dense": "ActivityNet Captions, a row a video (Krishna et al. 2017, arXiv 1705.00754)",
    "charades_sta": "Charades-STA (Gao et al. 2017, arXiv 1705.02101)",
    "longvideobench": "LongVideoBench (Wu et al. 2024, arXiv 2407.15754)",
    "mlvu": "MLVU (Zhou et al. 2024, arXiv 2406.04264)",
    "nextqa": "NExT-QA (Xiao et al. 2021, arXiv 2105.08276)",
    "qvhighlights": "QVHighlights (Lei et al. 2021, arXiv 2107.09609)",
    "videomme": "Video-MME (Fu et al. 2024, arXiv 2405.21075)",
}
