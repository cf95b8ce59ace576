"""What settings refuse, in words that say what to do."""

import pytest
from pydantic import SecretStr, ValidationError

from core.domain.templates import Pool
from core.settings import Api, Auth, DefaultPool, Settings


def test_two_runtimes_in_one_cluster_are_refused_before_it_is_measured() -> None:
    own = DefaultPool(runtime="process")
    shared = Settings(pool=own, pools={"rehearsal": Pool(runtime="memory")})
    with pytest.raises(ValueError, match="are both in cluster local; give one of them"):
        shared.require_one_runtime_a_cluster()
    Settings(pool=own, pools={"rehearsal": Pool(runtime="memory", cluster="else")}).require_one_runtime_a_cluster()


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
