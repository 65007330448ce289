"""``_scan.pxd`` and ``_scan.pyx`` repeat the numbers of ``fields.py`` and ``forms.py``; here they are compared."""

import pytest

from sentinel.maillog import fields, forms
from sentinel.maillog._scan import numbering

NAMES = {"text": fields.TEXT_FIELDS, "number": fields.NUMBER_FIELDS, "kind": fields.KINDS, "service": fields.SERVICES}


@pytest.mark.parametrize("what", NAMES)
def test_names_and_numbers(what):
    assert numbering()[what]
    for name, number in numbering()[what]:
        assert number == (len(NAMES[what]) if name == "count" else NAMES[what].index(name)), name


def test_operations():
    expected = [
        forms.LITERAL,
        forms.OPTIONAL,
        forms.TEXT,
        forms.INTEGER,
        forms.DECIMAL,
        forms.CLIENT,
        forms.RELAY,
        forms.CODE,
        forms.TAIL,
        forms.END,
        forms.CHECKED,
        forms.LOGIN,
        forms.PASSDB,
    ]
    assert numbering()["operation"] == expected


def test_every_column_has_a_source():
    computed = {"time", "service", "kind", "delay", "repeat"}
    assert set(fields.COLUMNS) - computed <= {*fields.TEXT_FIELDS, *fields.NUMBER_FIELDS}
    assert len(fields.COLUMNS) == len(set(fields.COLUMNS))


def test_every_form_compiles_to_known_numbers():
    compiled, by_service = forms.compile_forms()
    assert len(compiled) == len(forms.FORMS)
    assert sorted(by_service[0]) == [number for number, form in enumerate(forms.FORMS) if form.services != ("dovecot",)]
    for form in compiled:
        assert form.operations[-1].code in (forms.END, forms.TAIL) or form.operations[-2].code == forms.TAIL
        assert all(-1 <= operation.field < len(fields.TEXT_FIELDS) for operation in form.operations)
