"""How often a browser is replaced, and which page the new one opens."""

from agent_image.agent.repairs import REPAIR_WINDOW_SECONDS, Death, GiveUp, Repairs, Replace
from core.domain.wire import BrowserEnd, CommandFault

CRASHED = Death(BrowserEnd.CRASHED, "it crashed")
HUNGRY = Death(BrowserEnd.OUT_OF_MEMORY, "it was killed for memory")
CLOSED = Death(BrowserEnd.CLOSED, "its user had closed it")


def test_fourth_death_within_ten_minutes_is_given_up_and_a_later_one_is_not() -> None:
    repairs = Repairs()
    for at in (1000.0, 1100.0, 1200.0):
        assert isinstance(repairs.decide(CRASHED, "", at), Replace)
    assert repairs.decide(CRASHED, "", 1300.0) == GiveUp()
    assert repairs.decide(CRASHED, "", 1000.0 + REPAIR_WINDOW_SECONDS - 1) == GiveUp()
    # The first one is long ago now, and only that.
    assert isinstance(repairs.decide(CRASHED, "", 1000.0 + REPAIR_WINDOW_SECONDS), Replace)
    assert repairs.decide(CRASHED, "", 1001.0 + REPAIR_WINDOW_SECONDS) == GiveUp()


def test_browser_that_its_user_closes_is_always_opened_again_and_counts_for_nothing() -> None:
    repairs = Repairs()
    for at in range(20):
        assert repairs.decide(CLOSED, "https://example.org/", float(at)) == Replace("")
    assert repairs.decide(CRASHED, "https://example.org/", 21.0) == Replace("https://example.org/")


def test_page_is_opened_again_but_not_one_that_ends_the_browser_twice_or_took_all_memory() -> None:
    repairs = Repairs()
    assert repairs.decide(CRASHED, "https://a.example/", 0.0) == Replace("https://a.example/")
    assert repairs.decide(CRASHED, "https://a.example/", 1.0) == Replace("")
    assert repairs.decide(HUNGRY, "https://b.example/", 2.0) == Replace("")
    later = 3.0 + REPAIR_WINDOW_SECONDS
    assert repairs.decide(CRASHED, "https://a.example/", later) == Replace("https://a.example/")


def test_commands_that_a_browser_killed_for_memory_cut_off_say_so() -> None:
    assert HUNGRY.fault is CommandFault.PAGE_OUT_OF_MEMORY
    assert CRASHED.fault is CLOSED.fault is CommandFault.BROWSER_FAILED


def test_user_is_told_what_chromium_died_of_and_not_what_it_always_says() -> None:
    log = "[7:ERROR:dbus/bus.cc(4)] no bus\n[7:FATAL:a.cc(1)] Check failed: x.\n#0 0x55\n[7:ERROR:b.cc(2)] late"
    assert CRASHED.told(log) == "it crashed: [7:FATAL:a.cc(1)] Check failed: x."
    assert CRASHED.told("[7:ERROR:dbus/bus.cc(4)] no bus") == CRASHED.told("") == "it crashed"
    assert HUNGRY.told(log) == "it was killed for memory"
