"""Run with a folder for transformers and a scratch folder: what PEFT, accelerate and Trainer do with it. Asserts, prints nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import accelerate
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments

transformers.logging.set_verbosity_error()
IDS = torch.arange(5, 17).view(2, 6)


def opened(folder: Path, **options):
    return AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, **options)


def attached(model, role: str, parts: str):
    """LoRA at the linear layers of these names below the modules of a role."""
    names = "|".join(name.replace(".", r"[.]") for name in model.config.roles[role])
    return get_peft_model(model, LoraConfig(r=2, target_modules=rf"(?:{names})[.](?:.*[.])?(?:{parts})", task_type="CAUSAL_LM"))


def adapters(folder: Path, scratch: Path) -> None:
    """Of the decoder alone they train, exactly their matrices; saved and loaded they give the same numbers."""
    model = opened(folder)
    plain = model(input_ids=IDS).logits.detach()
    model = attached(model, "decoder", "attention[.](?:q|v)")
    lora = [f"base_model.model.{p}.layers.{i}.attention.{n}.lora_{ab}.default.weight" for p in model.config.roles["decoder"]
            for i in range(2) for n in "qv" for ab in "AB"]  # fmt: skip
    assert [n for n, p in model.named_parameters() if p.requires_grad] == lora, "what trains"
    assert torch.equal(model(input_ids=IDS).logits, plain), "B is zero at first"
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # A has a gradient from the second step on
        optimizer.zero_grad()
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert [n for n, p in model.named_parameters() if not torch.equal(p, before[n])] == lora, "what changed"
    trained = model(input_ids=IDS).logits
    assert not torch.equal(trained, plain)
    model.save_pretrained(scratch / "adapter")
    again = PeftModel.from_pretrained(opened(folder), scratch / "adapter")
    assert torch.equal(again(input_ids=IDS).logits, trained), "saved and loaded"
    merged = again.merge_and_unload()(input_ids=IDS).logits
    assert torch.allclose(merged, trained, rtol=1e-4, atol=1e-4), "merged into the weights"
    assert attached(opened(folder), "encoder", "attention[.](?:q|v)").get_nb_trainable_parameters()[0] > 0


def dispatched(folder: Path, scratch: Path) -> None:
    """Over places by map, one of them the disk: the same numbers, to the bit; a part with a residual stays whole."""
    model = opened(folder)
    pixels = torch.randn(2, 3, 42, 42, generator=torch.Generator().manual_seed(0))
    ids = torch.cat([torch.full((2, 9), 300), IDS], dim=1)
    wanted = model(input_ids=ids, pixel_values=pixels).logits
    places = accelerate.infer_auto_device_map(
        model, max_memory={"cpu": 150_000, "disk": 10**9}, no_split_module_classes=model._no_split_modules
    )
    assert set(places.values()) == {"cpu", "disk"} and not any(".layers.0." in name for name in places), places
    spread = opened(folder, device_map=places, offload_folder=scratch / "offload")
    assert set(spread.hf_device_map.values()) == {"cpu", "disk"}
    assert torch.equal(spread(input_ids=ids, pixel_values=pixels).logits, wanted)
    tokens = [m.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=3, eos_token_id=None).tolist() for m in (model, spread)]
    assert tokens[0] == tokens[1]


def prepared(folder: Path) -> None:
    """One step by an Accelerator is the step by hand."""
    steps = []
    for accelerator in (None, accelerate.Accelerator(cpu=True)):
        model = opened(folder)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        if accelerator is not None:
            model, optimizer = accelerator.prepare(model, optimizer)
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward() if accelerator is None else accelerator.backward(loss)
        optimizer.step()
        steps.append((loss.detach(), model(input_ids=IDS, labels=IDS).loss.detach()))
    assert torch.equal(torch.stack(steps[0]), torch.stack(steps[1]))
    assert steps[0][1] < steps[0][0]


def collated(folder: Path):
    """A collator over pictures and texts."""
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)

    def collate(rows):
        made = dict(processor(text=[r["text"] for r in rows], images=[r["image"] for r in rows]))
        made["labels"] = made["input_ids"].masked_fill((made["attention_mask"] == 0) | (made["input_ids"] == 300), -100)
        return made

    return collate, processor


ROWS = [{"text": "<image>What is this?", "image": Image.new("RGB", (64, 48), colour)} for colour in ("red", "blue")] * 2
SETTINGS = {
    "max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": [], "remove_unused_columns": False,
    "use_cpu": True, "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True,
}  # fmt: skip


def trained(folder: Path, scratch: Path) -> None:
    """Trainer, on pictures and texts: the loss falls, and it is that of the model's outputs."""
    collate, _ = collated(folder)
    model = opened(folder)
    first = model(**collate(ROWS[:2])).loss.item()
    trainer = Trainer(model, TrainingArguments(scratch / "trainer", **SETTINGS), data_collator=collate, train_dataset=ROWS)
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert abs(losses[0] - first) < 1e-3 * first and losses[2] < losses[1] < losses[0], losses


def supervised(folder: Path, scratch: Path) -> None:
    """TRL's SFTTrainer, which asks the processor for a tokenizer of transformers: one that stands in the folder."""
    import shutil

    from datasets import Dataset
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from trl import SFTConfig, SFTTrainer

    told = scratch / "told"
    shutil.copytree(folder, told)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    library = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    library.pre_tokenizer, library.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    library.save(str(told / "tokenizer.json"))
    collate, processor = collated(told)
    assert processor.tokenizer("ab")["input_ids"] == processor(text="ab")["input_ids"][0].tolist()[1:]  # behind the begin of a text
    settings = {**SETTINGS, "bf16": False, "gradient_checkpointing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}
    trainer = SFTTrainer(
        opened(told), SFTConfig(scratch / "sft", **settings), data_collator=collate, train_dataset=Dataset.from_list(ROWS),
        processing_class=processor,
    )  # fmt: skip
    trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    assert losses[2] < losses[1] < losses[0], losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    place, out = Path(sys.argv[1]), Path(sys.argv[2])
    if sys.argv[3:] == ["trl"]:
        supervised(place, out)
        sys.exit()
    adapters(place, out)
    dispatched(place, out)
    prepared(place)
    trained(place, out)
    assert "vlmgraph" not in sys.modules
