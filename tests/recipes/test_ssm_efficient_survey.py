"""The recipe of the state-space study: it builds a measurement of what its settings name."""

from foveal.recipes import load_recipe


def test_it_builds_a_measurement() -> None:
    recipe = load_recipe("ssm-efficient-survey")
    settings = recipe.Settings(
        operators=("conv",),
        sizes=(8, 16),
        dims=(16,),
        batches=(1,),
        threads=(1,),
        repeats=1,
        memory_repeats=0,
    )
    report = recipe.build(settings)()
    assert [(c.operator, c.tokens) for c in report.costs] == [("conv", 8), ("conv", 16)]
