"""Models that share an endpoint: what the others hold there is counted, and only there."""

from ebb import names, serving, serving_kinds, serving_model, sharing, traffic
from ebb.addresses import Address
from ebb.spec_serve import ServeSpec

ASKED = {
    "serve": ServeSpec(),
    "model": serving_model.Model(memory_mib=300.0),
    "traffic": traffic.expected(50_000),
    "region": "us-east-1",
}


def _shared(choice: serving.Choice) -> serving_kinds.Row:
    return next(row for row in choice.rows if row.kind == "shared")


ALONE = _shared(serving.choose(**ASKED))
HERE = names.shared_endpoint("ebb", ALONE.instance_type)


def test_only_other_projects_components_on_shared_endpoints_count():
    known = [
        Address(address="ebb-a", kind="shared", endpoint_name=HERE, memory_mb=512),
        Address(address="ebb-b", kind="shared", endpoint_name=HERE, memory_mb=256),
        Address(address="ebb-c", kind="realtime", endpoint_name="ebb-c--realtime", memory_mb=999),
        Address(address="ebb-mine", kind="shared", endpoint_name=HERE, memory_mb=300),
    ]
    assert sharing.others(known, "ebb-mine") == {HERE: 768}


def test_a_place_beside_others_costs_a_part_of_an_instance():
    assert _shared(sharing.choose("ebb", {HERE: 300.0}, **ASKED)).usd < ALONE.usd


def test_others_on_an_endpoint_of_another_instance_type_change_nothing():
    assert _shared(sharing.choose("ebb", {"ebb--shared-m5-24xlarge": 300.0}, **ASKED)) == ALONE


def test_where_others_leave_no_room_it_is_counted_alone_and_nothing_is_chosen_for_ever():
    assert _shared(sharing.choose("ebb", {HERE: 1e9}, **ASKED)) == ALONE
