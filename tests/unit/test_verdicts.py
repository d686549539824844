"""One table says what each CK_RV means for each route (SEMANTICS.md sections 2 to 4)."""

import pytest

from pyha.cryptoki import constants as ck
from pyha.cryptoki.functions import Route
from pyha.cryptoki.verdicts import Verdict, verdict

RVS = sorted({value for name, value in vars(ck).items() if name.startswith("CKR_")})


@pytest.mark.parametrize("rv", [ck.CKR_OK, ck.CKR_ARGUMENTS_BAD, ck.CKR_MECHANISM_INVALID, ck.CKR_PIN_INCORRECT])
@pytest.mark.parametrize("route", Route)
def test_a_member_that_answers_is_not_failed(route: Route, rv: int) -> None:
    assert verdict(route, rv) is Verdict.ANSWER


@pytest.mark.parametrize("rv", [ck.CKR_DEVICE_REMOVED, ck.CKR_TOKEN_NOT_PRESENT, ck.CKR_CRYPTOKI_NOT_INITIALIZED])
def test_a_member_that_says_it_is_gone_is_lost(rv: int) -> None:
    assert {verdict(route, rv) for route in Route} == {Verdict.MEMBER_LOST}


@pytest.mark.parametrize(
    "rv", [ck.CKR_DEVICE_ERROR, ck.CKR_GENERAL_ERROR, ck.CKR_FUNCTION_FAILED, ck.CKR_DEVICE_MEMORY]
)
def test_ambiguous_answers_are_probed_first(rv: int) -> None:
    assert {verdict(route, rv) for route in Route} == {Verdict.SUSPECT}


def test_an_operation_that_a_member_denies_went_with_its_session() -> None:
    assert verdict(Route.FINISH, ck.CKR_OPERATION_NOT_INITIALIZED) is Verdict.SESSION_LOST
    assert verdict(Route.READ, ck.CKR_OPERATION_NOT_INITIALIZED) is Verdict.ANSWER


def test_only_known_codes_cost_a_member() -> None:
    costly = {rv for rv in RVS for route in Route if verdict(route, rv) in (Verdict.SUSPECT, Verdict.MEMBER_LOST)}
    assert costly == {
        ck.CKR_DEVICE_ERROR,
        ck.CKR_GENERAL_ERROR,
        ck.CKR_FUNCTION_FAILED,
        ck.CKR_DEVICE_MEMORY,
        ck.CKR_HOST_MEMORY,
        ck.CKR_DEVICE_REMOVED,
        ck.CKR_TOKEN_NOT_PRESENT,
        ck.CKR_TOKEN_NOT_RECOGNIZED,
        ck.CKR_SLOT_ID_INVALID,
        ck.CKR_CRYPTOKI_NOT_INITIALIZED,
    }
