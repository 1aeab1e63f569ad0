"""Tokenizer files, tokens that they do not know, and the stand-in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from vlmgraph.diagnostics.core import DiagnosticError
from vlmgraph.processor import build_processor
from vlmgraph.processor.tokenizer import ByteVocabulary, find_tokenizer

TOKENS = {"<s>": 0, "</s>": 1, "<image>": 500}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A trained byte-level BPE that knows <s> and </s>, not <image>, and adds <s> by itself."""
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    library.train_from_iterator(["the cat sat on the mat, the cat"] * 20, trainer)
    library.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    library.enable_padding(length=64)
    library.enable_truncation(4)
    library.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_a_file_is_used_as_the_spec_says(folder: Path) -> None:
    tokenizer, note = find_tokenizer(folder, "", TOKENS, 512)
    assert note is None
    text = "<s>the cat<image> sat on the mat ü</s>"
    pieces = tokenizer.encode(text)
    ids = [p.id for p in pieces]
    assert ids[0] == 0 and ids[-1] == 1 and ids.count(500) == 1  # no second <s>, no padding, no truncation
    assert len(ids) < len(text) - 12  # words were merged
    assert tokenizer.decode(ids) == "the cat sat on the mat ü"
    assert tokenizer.decode(ids, skip_special=False) == text
    assert text[pieces[-2].start : pieces[-2].end] == "ü"
    assert all(text[p.start : p.end] == "<image>" for p in pieces if p.id == 500)


def test_tokens_must_agree_with_the_file(folder: Path) -> None:
    with pytest.raises(DiagnosticError, match=r"VG0710.*`</s>` is 2 in \[tokens\] but 1"):
        find_tokenizer(folder, "", {"</s>": 2}, None)
    tokenizer, _ = find_tokenizer(folder, "", TOKENS, 270)
    with pytest.raises(DiagnosticError, match=r"VG0715.*`<image>` is 500.*ends at 269"):
        tokenizer.encode("<image>")
    tokenizer, _ = find_tokenizer(folder, "", TOKENS, 2)
    with pytest.raises(DiagnosticError, match=r"VG0710.*ends at 1"):
        tokenizer.encode("cat")


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{ not json")
    with pytest.raises(DiagnosticError, match=r"VG0710.*tokenizer\.json"):
        find_tokenizer(tmp_path, "", TOKENS, None)


def test_an_entry_may_have_its_own_file(folder: Path) -> None:
    own = folder / "bert"
    own.mkdir()
    library = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))
    library.pre_tokenizer = pre_tokenizers.Whitespace()
    library.add_special_tokens([AddedToken("[CLS]")])
    library.save(str(own / "tokenizer.json"))
    tokenizer, _ = find_tokenizer(folder, "bert", {"[CLS]": 2}, None)
    assert [p.id for p in tokenizer.encode("[CLS]a b")] == [2, 1, 0]
    for hostile in ("../x", "/etc", "a/b", ".", ".."):
        with pytest.raises(DiagnosticError, match="VG0701"):
            build_processor({"input_ids": {"type": "processor.text", "tokenizer": hostile}}, {}, {})


def test_the_stand_in_says_so(build: Any) -> None:
    (note,) = build("llava-1.5").notes
    assert note.code == "VG0711" and note.severity == "warning"
    assert "bytes" in note.message
    (note,) = build("clip", vocab=49408, folder=Path(__file__).parent).notes
    assert note.code == "VG0711"


@given(st.text())
def test_bytes_round_trip(text: str) -> None:
    vocabulary = ByteVocabulary([0, 1, 2, 300], 320)
    pieces = vocabulary.encode(text)
    assert not {p.id for p in pieces} & {0, 1, 2, 300}
    assert all(0 <= p.id < 320 for p in pieces)
    assert vocabulary.decode([p.id for p in pieces]) == text.encode("utf-8", "replace").decode()
    assert all(text[p.start : p.end] for p in pieces)


def test_small_vocabularies_share_ids() -> None:
    vocabulary = ByteVocabulary([0, 63], 64)
    ids = [p.id for p in vocabulary.encode("Hi, 日本")]
    assert vocabulary.shared
    assert all(0 < i < 63 for i in ids)
    assert ids[0] == 1 + ord("H") % 62
    assert all(31 < ord(c) < 127 for c in vocabulary.decode(ids))
    with pytest.raises(DiagnosticError, match="VG0710"):
        ByteVocabulary([0, 1], 2)


def test_longer_tokens_win() -> None:
    tokenizer, _ = find_tokenizer(None, "", {"<a>": 1, "<a><b>": 2}, None)
    assert [p.id for p in tokenizer.encode("<a><b><a>")] == [2, 1]
