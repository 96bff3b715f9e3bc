"""The list of timm's networks that are worth trying, as a user sees it."""

from common.networks.timm_catalogue import TIMM_CATALOGUE
from common.tools import modelzoo


def test_the_list_ends_with_networks_of_timm(tmp_path):
    lines = modelzoo.list_networks(str(tmp_path))
    rows = {line.split()[0]: line for line in lines if line.startswith("timm:")}
    assert rows.keys() == {f"timm:{name}" for name in TIMM_CATALOGUE}
    assert "timm:resnetv2_152x2_bit.goog_in21k" in rows
    mae = rows["timm:vit_huge_patch14_224.mae"].split(maxsplit=4)
    assert mae == [*["timm:vit_huge_patch14_224.mae", "224", "630.8", "M"], mae[4]]
    assert mae[4].startswith("cc-by-nc-4.0 * ") and mae[4].endswith("83.4 % (448 px)")
    assert " *" not in rows["timm:convnext_tiny.in12k"]


def test_a_figure_has_a_source():
    for entry in TIMM_CATALOGUE.values():
        assert (entry.figure is None) == (entry.source is None), entry.name


def test_what_is_known_of_a_network_is_printed(capsys):
    modelzoo.describe_timm_network("vit_huge_patch14_224.mae")
    said = capsys.readouterr().out
    assert "https://huggingface.co/timm/vit_huge_patch14_224.mae" in said
    assert "licence: cc-by-nc-4.0, for non-commercial use only" in said
    assert "2017: 79.3 % (224 px), 83.4 % (448 px); github.com/facebookresearch/mae" in said
    modelzoo.describe_timm_network("somebody/network")  # of which nothing is known here
    assert capsys.readouterr().out.endswith("https://huggingface.co/somebody/network\n")
