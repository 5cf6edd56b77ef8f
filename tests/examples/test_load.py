"""Reading files: what comes in, and that a file with bad rows is refused whole with its line numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from veriscope.errors import (
    BadRows,
    CannotRead,
    MissingField,
    MixedTypes,
    OneClass,
    OneClassInPool,
    PoolTooSmall,
    UnknownColumn,
    UnseenClass,
    UserError,
)
from veriscope.examples import examples


def review_rows(n: int = 40) -> list[dict[str, Any]]:
    """Two rows for each film, one of each class, so that every pool has both."""
    words = {True: "good", False: "bad"}
    return [
        {
            "text": f"Film {i // 2} is {words[i % 2 == 0]}.",
            "positive": i % 2 == 0,
            "film": f"f{i // 2}",
            "year": 1990 + i,
        }
        for i in range(n)
    ]


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, list(rows[0]), **options)
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = review_rows()
    files = [
        write_jsonl(tmp_path / "a.jsonl", rows),
        write_csv(tmp_path / "a.csv", rows),
        write_csv(tmp_path / "a.tsv", rows, delimiter="\t"),
        tmp_path / "a.json",
        tmp_path / "a.parquet",
    ]
    files[3].write_text(json.dumps(rows, indent=1))
    parquet.write_table(pyarrow.Table.from_pylist(rows), files[4])

    loaded = [examples(source, label="positive", cluster="film", name="a") for source in (rows, *files)]

    assert all(found == loaded[0] for found in loaded)
    assert loaded[0].n == 40 and loaded[0].name == "a" and loaded[0].variable == "positive"
    first = loaded[0].dev[0]
    assert first.label in ("True", "False") and first.cluster.startswith("f") and set(first.factors) == {"year"}


def test_names_come_from_the_file_and_fields_from_the_named_columns(tmp_path: Path) -> None:
    rows = [row | {"next": " yes", "other": " no", "twin": "Another text", "then": " no"} for row in review_rows()]
    path = write_jsonl(tmp_path / "reviews.jsonl", rows)

    data = examples(
        path,
        label="positive",
        answer="next",
        foil="other",
        source_text="twin",
        expected="then",
        factors=["film", "year"],
    )

    assert data.name == "reviews"
    assert data.dev.answers[0] == " yes" and data.dev.foils[0] == " no"
    assert data.dev.sources[0] == "Another text" and data.dev.expected[0] == " no"
    assert data.dev.factor_names == ("film", "year")
    assert data.dev.factor("positive") == data.dev.labels and data.dev.factor("text") == data.dev.texts


def test_without_a_cluster_each_text_is_its_own_and_copies_stay_together() -> None:
    texts = [f"Text number {i}" for i in range(30)]
    rows = [{"text": t} for t in texts] + [{"text": t.upper()} for t in texts] + [{"text": f" {t}  "} for t in texts]

    data = examples(rows)

    assert data.dev.n_clusters + data.gate.n_clusters == 30
    assert len(data.dev) == 3 * data.dev.n_clusters


@pytest.mark.parametrize(
    "bad, why",
    [
        ('{"text": "a", "positive": tru}', "not valid JSON"),
        ('{"text": "a"}', "no 'positive'"),
        ('{"text": "  ", "positive": true}', "'text' is empty"),
        ('{"text": 3, "positive": true}', "'text' is a int, where text is needed"),
        ('{"text": "a", "positive": null}', "'positive' is empty"),
        ('{"text": "a", "positive": ""}', "'positive' is empty"),
        ('{"text": "a", "positive": NaN}', "NaN is not valid JSON"),
        ('{"text": "a", "positive": 0.37}', "sort it into classes first"),
        ('{"text": "a", "positive": [1]}', "'positive' is a list"),
        ('{"text": "a", "text": "b", "positive": true}', "the key 'text' stands twice"),
        ('{"text": "half \\ud83d", "positive": true}', "half a surrogate pair"),
        ('["a", true]', "a list, where an object"),
        ('"a"', "a str, where an object"),
    ],
)
def test_a_bad_line_refuses_the_file_and_is_named(tmp_path: Path, bad: str, why: str) -> None:
    lines = [json.dumps(row) for row in review_rows()]
    lines[2:2] = ["", bad]  # a blank line counts as a line
    path = tmp_path / "reviews.jsonl"
    path.write_text("\n".join(lines))

    with pytest.raises(BadRows) as caught:
        examples(path, label="positive")

    assert [number for number, _ in caught.value.problems] == [4]
    assert why in str(caught.value) and "line 4:" in str(caught.value) and str(path) in str(caught.value)


def test_the_first_ten_bad_lines_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    rows = review_rows()
    for row in rows[5:30]:
        row["text"] = ""
    path = write_jsonl(tmp_path / "reviews.jsonl", rows)

    with pytest.raises(BadRows, match="25 bad row") as caught:
        examples(path, label="positive")

    assert "line 15:" in str(caught.value) and "line 16:" not in str(caught.value)
    assert "and 15 more" in str(caught.value)


def test_line_numbers_of_csv_count_lines_and_not_records(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text('text,positive\n"two\nlines",1\n\nshort\n"also\ntwo",\nfine,0\n')

    with pytest.raises(BadRows) as caught:
        examples(path, label="positive")

    assert caught.value.problems == ((5, "1 fields where the header names 2"), (6, "'positive' is empty"))


def test_csv_quoting_is_strict_and_tsv_does_not_quote(tmp_path: Path) -> None:
    broken = tmp_path / "broken.csv"
    broken.write_text('text,positive\n"open,1\nnext,0\n')
    with pytest.raises(BadRows, match=r"line 2: .*reading stopped here"):
        examples(broken, label="positive")

    tsv = tmp_path / "quotes.tsv"
    tsv.write_text("text\tpositive\n" + "".join(f'"{i} said she\t{i % 2}\n' for i in range(40)))
    assert all(text.startswith('"') for text in examples(tsv, label="positive").dev.texts)


def test_spreadsheet_marks_index_columns_and_long_fields(tmp_path: Path) -> None:
    path = tmp_path / "sheet.csv"
    rows = "".join(f"{i},{'x' * 200_000 if i == 0 else 'text'} {i},{i % 2}\r\n" for i in range(40))
    path.write_bytes(b"\xef\xbb\xbf" + f",text,positive\r\n{rows}".encode())
    limit = csv.field_size_limit()

    data = examples(path, label="positive")

    assert data.n == 40 and data.dev.factor_names == ()
    assert csv.field_size_limit() == limit


def test_line_separators_inside_a_string_do_not_split_a_line(tmp_path: Path) -> None:
    rows = [row | {"text": row["text"] + "\u2028\x85 more"} for row in review_rows()]

    assert examples(write_jsonl(tmp_path / "a.jsonl", rows), label="positive").n == 40


def test_text_that_is_not_utf8_is_refused_with_its_lines_unless_its_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "latin.csv"
    rows = [f"Caf\xe9 {i},{i % 2}" if i in (3, 7) else f"Tea {i},{i % 2}" for i in range(40)]
    path.write_bytes("\n".join(["text,positive", *rows]).encode("latin-1"))

    with pytest.raises(BadRows, match='encoding="latin-1"') as caught:
        examples(path, label="positive")
    assert [number for number, _ in caught.value.problems] == [5, 9]

    data = examples(path, label="positive", encoding="latin-1")
    assert data.n == 40
    with pytest.raises(CannotRead, match="no encoding 'latin-one'"):
        examples(path, encoding="latin-one")


def test_a_json_list_is_known_by_its_content_and_counts_items(tmp_path: Path) -> None:
    path = tmp_path / "reviews.jsonl"
    path.write_text(json.dumps([*review_rows(), {"text": ""}]))
    with pytest.raises(BadRows, match="item 41"):
        examples(path)

    path.write_text('[\n{"text": "a"},\n{"text" "b"}]')
    with pytest.raises(BadRows, match="line 3: not valid JSON"):
        examples(path)


def test_a_file_that_cannot_be_read_says_what_to_type(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "reviews.jsonl", review_rows())
    (tmp_path / "reviews.xlsx").write_text("x")
    (tmp_path / "bad.parquet").write_text("not parquet")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "header.csv").write_text("text,positive\n")
    (tmp_path / "twice.csv").write_text("text,text\na,b\n")

    for source, message in [
        ("review.jsonl", r"no such file. Did you mean '.*reviews\.jsonl'"),
        ("nowhere/review.jsonl", "not there either"),
        (".", "it is a folder"),
        ("reviews.xlsx", r"'\.xlsx' is not a kind it knows.*\.jsonl"),
        ("bad.parquet", "not a Parquet file"),
        ("empty.csv", "it holds no rows"),
        ("header.csv", "it holds no rows"),
        ("twice.csv", "two columns are called 'text'"),
    ]:
        with pytest.raises(CannotRead, match=message):
            examples(tmp_path / source)
    with pytest.raises(CannotRead, match="it holds no rows"):
        examples([])
    with pytest.raises(BadRows, match="row 1: a str, where an object"):
        examples(["only text"])


def test_an_unknown_column_names_the_nearest() -> None:
    with pytest.raises(UnknownColumn, match=r"no column 'positiv'. Did you mean 'positive'"):
        examples(review_rows(), label="positiv")
    with pytest.raises(UnknownColumn, match=r"no column 'yaer'. Did you mean 'year'"):
        examples(review_rows(), factors=["yaer"])
    with pytest.raises(UnknownColumn, match="Its columns: text, positive, film, year"):
        examples(review_rows(), text="q")
    data = examples(review_rows(), label="positive")
    with pytest.raises(UnknownColumn, match="Did you mean 'film'"):
        data.dev.factor("flim")
    with pytest.raises(MissingField, match='answer="column"'):
        _ = data.dev.answers
    with pytest.raises(MissingField, match='source_text="column"'):
        _ = data.dev.sources


def test_labels_that_cannot_be_learnt_are_refused() -> None:
    with pytest.raises(OneClass, match="only 'True'"):
        examples([row | {"positive": True} for row in review_rows()], label="positive")
    with pytest.raises(MixedTypes, match=r"true/false .first: row 1., text .first: row 2."):
        examples(
            [row | {"positive": str(row["positive"]) if i else True} for i, row in enumerate(review_rows())],
            label="positive",
        )
    by_pool = [{"text": f"t{i}", "c": c} for i in range(9) for c in ("f0", "f1", "f2", "f3", "f4", "f5")]
    gate = set(examples(by_pool, cluster="c").gate.open(by="card", ledger=_Book()).clusters)
    with pytest.raises(OneClassInPool, match="All rows of the dev pool"):
        examples([r | {"z": r["c"] in gate and r["text"] > "t4"} for r in by_pool], label="z", cluster="c")
    rare = [r | {"z": "rare" if r["c"] == min(gate) else r["text"]} for r in by_pool]
    with pytest.raises(UnseenClass, match=r"Class 'rare' .* in the gate pool but not in dev"):
        examples(rare, label="z", cluster="c")


def test_pools_need_two_clusters_and_a_share_between_0_and_1() -> None:
    with pytest.raises(PoolTooSmall, match=r"pool of the given list would hold [01] cluster.s., .* \(of 1 in all\)"):
        examples([row | {"film": "one"} for row in review_rows()], cluster="film")
    with pytest.raises(UserError, match=r"dev_share is 1.0, and must lie between 0 and 1"):
        examples(review_rows(), dev_share=1.0)


def test_whole_numbers_that_came_as_floats_are_the_same_labels() -> None:
    rows = review_rows()

    as_int = examples([r | {"positive": int(r["positive"])} for r in rows], label="positive")
    as_float = examples([r | {"positive": float(r["positive"])} for r in rows], label="positive")

    assert as_int == as_float and set(as_int.dev.labels) == {"0", "1"}


def test_shift_by_column_or_by_a_second_file(tmp_path: Path) -> None:
    rows = [row | {"domain": "news" if i >= 30 else "film"} for i, row in enumerate(review_rows())]
    path = write_jsonl(tmp_path / "news.jsonl", rows[30:])

    one = examples(rows, label="positive", cluster="film", shift={"column": "domain", "is": ["news"]})
    two = examples(rows[:30], label="positive", cluster="film", shift=path)

    assert one == two and one.shift is not None and one.shift.n == 10 and one.n == 40
    assert "domain" in one.dev.factor_names and set(one.dev.factor("domain")) == {"film"}
    assert examples(rows[:30], label="positive", cluster="film").shift is None


def test_a_shift_that_is_not_there_is_told() -> None:
    rows = [row | {"domain": "news" if i >= 30 else "film"} for i, row in enumerate(review_rows())]

    with pytest.raises(UserError, match=r"No row .* has 'new' in 'domain'. Did you mean 'news'. It holds: film, news"):
        examples(rows, shift={"column": "domain", "is": "new"})
    with pytest.raises(UnknownColumn, match="Did you mean 'domain'"):
        examples(rows, shift={"column": "domian", "is": ["news"]})
    with pytest.raises(UserError, match="Write: shift="):
        examples(rows, shift={"col": "domain", "is": ["news"]})


class _Book:
    """The smallest ledger."""

    def append(self, kind: str, body: Any) -> None:
        pass

    def rows(self, kind: str | None = None, **where: Any) -> list[Any]:
        return []
