"""What settings refuse, in words that say what to do."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from api.cli.config import in_force
from core.domain.notices import Channel
from core.domain.templates import Pool, Template
from core.domain.timings import Timings
from core.settings import Api, Auth, DefaultPool, Settings, Smtp, Webhook
from tests.fixtures.receivers import SECRET


def test_two_runtimes_in_one_cluster_are_refused_before_it_is_measured() -> None:
    own = DefaultPool(runtime="process")
    shared = Settings(pool=own, pools={"rehearsal": Pool(runtime="memory")})
    with pytest.raises(ValueError, match="are both in cluster local; give one of them"):
        shared.require_one_runtime_a_cluster()
    Settings(pool=own, pools={"rehearsal": Pool(runtime="memory", cluster="else")}).require_one_runtime_a_cluster()


def test_what_the_file_leaves_out_of_the_default_pool_is_what_the_general_settings_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def of(default: str) -> dict[str, Pool]:
        (tmp_path / "berth.yaml").write_text(f"pools: {{other: {{template: big}}, default: {default}}}\n")
        return Settings(pool=DefaultPool(runtime="memory", capacity=3)).all_pools()

    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "berth.yaml"))
    assert list(of("{max_starting: 2}")) == ["default", "other"]
    assert of("{max_starting: 2}")["default"] == Pool(runtime="memory", capacity=3, max_starting=2)
    assert of("{runtime: kubernetes, capacity: null}")["default"] == Pool(runtime="kubernetes", capacity=None)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        ("tiers", "free", -1),
        ("tiers", "gold", 5),
        ("queue", "max", -1),
        ("queue", "lifespan_minutes", 0),
        ("queue", "lifespan_minutes", "inf"),
        ("queue", "ageing_seconds", -1),
        ("queue", "ageing_seconds", 0),
        ("queue", "ageing_seconds", "inf"),
        ("queue", "ageing_seconds", "nan"),
        ("pool", "capacity", -1),
    ],
)
def test_limits_that_make_no_sense_are_refused_by_name(
    group: str, name: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"BERTH_{group}__{name}".upper(), str(value))
    with pytest.raises(ValidationError, match=rf"{group}\.{name}"):
        Settings()


@pytest.mark.parametrize(
    ("fields", "healthy"),
    [
        ({"heartbeat_seconds": 60}, False),
        ({"heartbeat_seconds": 59}, True),
        ({"channel_lost_seconds": 60}, False),
        ({"heartbeat_seconds": 0.1, "channel_lost_seconds": 0.3}, True),
    ],
)
def test_timings_that_would_take_a_healthy_agent_for_lost_are_refused_in_general_and_of_a_template(
    fields: dict[str, float], healthy: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As a value they are fine: a life that began with them goes on.
    timings = Timings.model_validate(fields)
    assert Timings.model_validate_json(timings.model_dump_json()) == timings
    if healthy:
        Settings(timings=timings, templates={"slow": Template(timings=timings)})
        return
    why = "must be more than twice heartbeat_seconds"
    with pytest.raises(ValidationError, match=rf"timings\n.*{why}"):
        Settings(timings=timings)
    (tmp_path / "berth.yaml").write_text(f"templates: {{slow: {{timings: {json.dumps(fields)}}}}}\n")
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "berth.yaml"))
    with pytest.raises(ValidationError, match=rf"templates\.slow\.timings\n.*{why}"):
        Settings()


def test_agent_whose_template_is_taken_out_of_the_settings_lives_by_the_general_timings() -> None:
    slow = Timings(heartbeat_seconds=60, channel_lost_seconds=300)
    settings = Settings(timings=Timings(grace_seconds=7), templates={"slow": Template(timings=slow)})
    assert settings.timings_of_living("slow") == slow
    assert settings.timings_of_living("taken out") == Timings(grace_seconds=7)


def test_template_without_an_image_has_that_of_the_default_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = "templates: {large: {resources: {memory_mib: 1024}}, other: {image: registry.example/other:1}}\n"
    (tmp_path / "berth.yaml").write_text(file)
    monkeypatch.setenv("BERTH_CONFIG", str(tmp_path / "berth.yaml"))
    assert Settings().template("large").image == Template().image
    monkeypatch.setenv("BERTH_TEMPLATES__DEFAULT__IMAGE", "registry.example/agent:7")
    images = {name: Settings().template(name).image for name in ("default", "large", "other")}
    assert images == {
        "default": "registry.example/agent:7",
        "large": "registry.example/agent:7",
        "other": "registry.example/other:1",
    }


def test_ageing_is_off_until_it_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Settings().queue.ageing is None
    monkeypatch.setenv("BERTH_QUEUE__AGEING_SECONDS", "90")
    assert Settings().queue.ageing == timedelta(seconds=90)


@pytest.mark.parametrize("sample", ["changeme", "secret", "0123456789"])
def test_a_sample_secret_is_refused_and_there_is_no_default(sample: str) -> None:
    with pytest.raises(ValidationError, match="openssl rand"):
        Auth(secret=SecretStr(sample))
    with pytest.raises(ValueError, match="AUTH__SECRET"):
        Auth().require()


def test_keys_of_an_issuer_are_trusted_only_for_a_named_audience() -> None:
    with pytest.raises(ValidationError, match="AUDIENCE"):
        Auth(jwks_url="https://issuer.example/keys")


def test_agents_are_told_the_address_that_they_can_reach() -> None:
    assert Settings(api=Api(port=81)).agent_url() == "http://127.0.0.1:81"
    assert Settings(api=Api(port=81, agent_host="10.9.0.1")).agent_url() == "http://10.9.0.1:81"
    assert Settings(api=Api(public_url="https://berth.example", agent_host="10.9.0.1")).public_url() == (
        "https://berth.example"
    )
    named = Api(agent_url="http://api.berth:8000/", agent_host="10.9.0.1")
    assert Settings(api=named).agent_url() == "http://api.berth:8000"


@pytest.mark.parametrize(
    ("host", "called"),
    [
        ("::1", "[::1]"),
        ("::", "[::1]"),
        ("0.0.0.0", "127.0.0.1"),  # noqa: S104  (compared, not bound)
        ("fd00::7", "[fd00::7]"),
        ("berth.internal", "berth.internal"),
    ],
)
def test_address_that_the_api_listens_on_is_told_so_that_a_url_can_hold_it(host: str, called: str) -> None:
    settings = Settings(api=Api(host=host, port=81))
    assert settings.public_url() == settings.agent_url() == f"http://{called}:81"
    assert Settings(api=Api(port=81, agent_host=host)).agent_url() == f"http://{called}:81"


def test_notices_are_set_up_by_their_variables_and_printed_without_their_secrets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Settings().notice_channels() == frozenset()
    given = {
        "SMTP__HOST": "mail.example",
        "SMTP__FROM": "Berth <berth@example.org>",
        "SMTP__USER": "berth",
        "SMTP__PASSWORD": "hunter22",
        "WEBHOOK__URL": "https://shop.example/hooks",
        "WEBHOOK__SECRETS": SECRET,
    }
    for name, value in given.items():
        monkeypatch.setenv(f"BERTH_{name}", value)
    settings = Settings()
    assert settings.notice_channels() == {Channel.EMAIL, Channel.WEBHOOK}
    assert (settings.smtp.sender, settings.smtp.port) == ("Berth <berth@example.org>", 587)
    shown = in_force(settings)
    assert shown["smtp"]["from"] == "Berth <berth@example.org>"
    assert SECRET not in str(shown)
    assert "hunter22" not in str(shown)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("shop.example/hooks", "no http address"),
        ("ftp://shop.example", "no http address"),
        ("http://", "no http address"),
        ("http://shop.example/a\r\nb", "no http address"),
        ("http://[::1/", "no http address"),
        ("http://shop.example:99999/", "no http address"),
        ("https://ann:secret@shop.example/", "a user, a password"),
    ],
)
def test_webhook_address_that_cannot_be_one_is_refused_in_words(url: str, why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Webhook(url=url)


def test_webhook_without_a_secret_is_refused_where_it_would_be_signed() -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        Webhook(url="https://shop.example/").keys()
    with pytest.raises(ValidationError, match="openssl rand"):
        Webhook(url="https://shop.example/", secrets=SecretStr("changeme"))


def test_mail_server_needs_an_address_to_send_from_and_a_whole_login() -> None:
    for given, why in (
        ({}, "SMTP__FROM"),
        ({"sender": "berth"}, "SMTP__FROM is no address"),
        ({"sender": "berth@example.org\r\nBcc: ann@example.org"}, "SMTP__FROM is no address"),
        ({"sender": "berth@example.org", "user": "ann"}, "go together"),
    ):
        with pytest.raises(ValidationError, match=why):
            Smtp(host="mail.example", **given)
