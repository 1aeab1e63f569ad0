"""The plugin through vlmgraph's front door: check, compile, train signals."""

import torch

import vlmgraph


def tiny(name):
    return vlmgraph.compile(vlmgraph.read_spec(name, size="tiny"))


def test_specs_check_clean():
    for name in ("honeybee", "cyclip"):
        assert [str(d) for d in vlmgraph.check(vlmgraph.read_spec(name)) if d.severity == "error"] == []


def test_the_abstractor_keeps_places():
    """A change in one corner of the image moves the token of that corner most, and the logits."""
    model = tiny("honeybee")
    image = torch.randn(1, 3, 42, 42)
    other = image.clone()
    other[..., :14, :14] += 3.0
    abstractor = model.projector
    patches = torch.randn(1, 9, 40)
    near = patches.clone()
    near[:, 0] += 5.0
    moved = (abstractor(near) - abstractor(patches)).norm(dim=-1)[0]
    assert moved.argmax() == 0
    ids = torch.tensor([[5, *[300] * 4, 6, 7]])
    assert not torch.equal(model(pixel_values=image, input_ids=ids)["logits"], model(pixel_values=other, input_ids=ids)["logits"])


def test_parameters_are_counted_exactly():
    model = tiny("honeybee")
    config = model.graph.components["projector"]
    assert config.total() == sum(p.numel() for p in model.projector.parameters())


def test_the_cyclic_loss_is_zero_exactly_for_consistent_geometry():
    from vlmgraph_abstractor.modules import CyclicLoss

    loss = CyclicLoss(0.25, 0.25)
    image = torch.nn.functional.normalize(torch.randn(5, 8), dim=-1)
    assert loss(image, image) == 0
    assert loss(image, image.roll(1, 0)) > 1e-3


def test_the_objective_trains_both_towers():
    model = tiny("cyclip")
    out = model.programs["objective.cyclic"](
        pixel_values=torch.randn(3, 3, 42, 42), input_ids=torch.randint(1, 300, (3, 7)).index_fill_(1, torch.tensor([6]), 319)
    )
    out["loss"].backward()
    assert model.vision.patch.proj.weight.grad.abs().sum() > 0
    assert model.embed.tokens.weight.grad.abs().sum() > 0
