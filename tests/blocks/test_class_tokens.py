import pytest
import torch

from foveal.blocks.class_tokens import ClassTokens, split_table


@pytest.mark.parametrize(
    ("place", "rows"), [("none", []), ("head", [0]), ("middle", [3]), ("tail", [7]), ("double", [0, 8])]
)
def test_class_tokens_join_and_leave(place, rows):
    patches, tokens = torch.randn(2, 7, 4), ClassTokens(4, place=place, positions=False)
    joined = tokens(patches)
    assert joined.shape[1] == 7 + tokens.count
    back, pooled = tokens.split(joined)
    assert torch.equal(back, patches)
    if rows:
        assert torch.equal(joined[0, rows], tokens.tokens[0])
        torch.testing.assert_close(pooled[0], tokens.tokens[0].mean(dim=0))
    else:
        assert pooled is None


@pytest.mark.parametrize("place", ["none", "head", "middle", "tail", "double"])
def test_one_table_of_positions_is_dealt_to_patches_and_class_tokens(place):
    patches, tokens = torch.randn(1, 9, 4), ClassTokens(4, place=place)
    table, rest = split_table(tokens(patches), place)
    assert torch.equal(table, patches)
    if tokens.count:
        assert torch.equal(rest, tokens.tokens + tokens.positions)
