"""Reading a file: what is refused, where, and in which words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tierllm import ConfigError, TieredClient
from tierllm.config import Config

MINIMAL = """
[[tiers]]
name = "gold"
[[tiers.deployments]]
model = "big"
provider = "fake"
"""


def refusal(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def test_a_minimal_file_answers(write):
    with TieredClient.from_config(Config.load(write(MINIMAL))) as client:
        assert client.complete("hi").tier == "gold"


def test_importing_tierllm_loads_no_pydantic():
    code = "import sys, tierllm, tierllm.cli; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "tiers: is missing"),
        ("tiers = []", "tiers: there is no tier; give at least one [[tiers]]"),
        ("[tiers]\nname = 'x'", "tiers: should be a list; write [[tiers]]"),
        ("[[tiers]]\nname = 'x'\ndeployments = []", "tiers[0].deployments: should have at least one entry"),
        ("[provider.x]" + MINIMAL, "provider: there is no such key; did you mean 'providers'?"),
        (
            MINIMAL + "modell = 'x'",
            "tiers[0].deployments[0].modell: there is no such key; did you mean 'model'?",
        ),
        (
            MINIMAL.replace('"fake"', '"fke"'),
            "tiers[0].deployments[0].provider: there is no such provider; did you mean 'fake'?",
        ),
        (
            MINIMAL.replace('provider = "fake"', ""),
            "tiers[0].deployments[0].provider: is missing; such as provider = ",
        ),
        (MINIMAL + MINIMAL, "tiers[1].name: another tier has this name; give it one of its own"),
        (
            MINIMAL + "breaker = 'no'",
            "tiers[0].deployments[0].breaker: should be a table; write false for none",
        ),
        (MINIMAL + "breaker = true", "tiers[0].deployments[0].breaker: should be a table, or false for none"),
        (
            MINIMAL + "retry = {attempts = 0}",
            "tiers[0].deployments[0].retry.attempts: give at least 1",
        ),
        (MINIMAL + "timeouts = {total_s = -1}", "tiers[0].deployments[0].timeouts.total_s: "),
        (MINIMAL + "timeouts = {total_s = nan}", "tiers[0].deployments[0].timeouts.total_s: "),
        (MINIMAL + "weight = 0", "tiers[0].deployments[0].weight: should be greater than 0"),
        (MINIMAL + "labels = 'eu'", "tiers[0].deployments[0].labels: should be a list"),
        (
            MINIMAL + "context_window = true",
            "tiers[0].deployments[0].context_window: should be a whole number",
        ),
        ("[client]\nsimple_reply = 3" + MINIMAL, "client.simple_reply: should be a string, or a table"),
        (
            "[breaker]\nopen_s = 500" + MINIMAL,
            "breaker.max_open_s: give at least open_s, which is 500",
        ),
        ("[providers.x]" + MINIMAL, "providers.x.kind: should be one of 'openai', 'local', 'fake'"),
        (
            "[providers.x]\nkind = 'opnai'" + MINIMAL,
            "providers.x.kind: should be one of 'openai', 'local', 'fake'",
        ),
        (
            "[providers.x]\nkind = 'local'\nn_thread = 1" + MINIMAL,
            "providers.x.n_thread: there is no such key; did you mean 'n_threads'?",
        ),
        (
            "[providers.x]\nkind = 'openai'\nbase_url = 'host'" + MINIMAL,
            "providers.x.base_url: should be an address such as",
        ),
        (
            MINIMAL + "params = {temperature = 9}",
            "tiers[0].deployments[0].params.temperature: give a number from 0 to 2",
        ),
        (
            MINIMAL.replace('"gold"', '"gold"\ndefaults = {max_tokens = "x"}'),
            "tiers[0].defaults.max_tokens: give a whole number of at least 1",
        ),
        (MINIMAL + "params = {stream = true}", "tiers[0].deployments[0].params: 'stream' is no parameter"),
        (
            MINIMAL + "params = {api_key = 'sk-x'}",
            "tiers[0].deployments[0].params: api_key: a key has no place in this file; keys come from",
        ),
        (MINIMAL + "drop = ['']", "tiers[0].deployments[0].drop: give a set of names"),
        ("[breaker]\nwindow = 99999999999" + MINIMAL, "breaker.window: give 1,000,000 calls at most"),
        ("[retry_budget]\nwindow_s = 99999999999" + MINIMAL, "retry_budget.window_s: should be less than"),
        (
            "[providers.x]\nkind = 'openai'\napi_key_env = []" + MINIMAL,
            "providers.x.api_key_env: should have at least one entry",
        ),
        ("a =", "this is not valid TOML: Invalid value (at "),
        ("a = 1\na = 2", "this is not valid TOML: Cannot overwrite a value (at "),
    ],
)
def test_a_problem_is_told_with_file_key_and_remedy(write, text, told):
    path = write(text)
    message = refusal(path)
    assert message.startswith(f"{path}: {told}"), message
    assert "\n" not in message


def test_settings_of_several_levels_must_fit_together(write):
    text = "[breaker]\nopen_s = 200\nmax_open_s = 200" + MINIMAL + "breaker = {open_s = 250}"
    assert (
        "tiers[0].deployments[0]: settings of several levels do not fit together; CircuitBreaker("
        in refusal(write(text))
    )


def test_several_problems_are_listed_together(write):
    path = write("[retry]\nattemps = 2\n[client]\ndeadline_s = 0\n[[tiers]]\nnam = 'x'\n")
    first, *rest = refusal(path).splitlines()
    assert first == f"{path}: 5 problems"
    assert sorted(line.split(":")[0].strip() for line in rest) == [
        "client.deadline_s",
        "retry.attemps",
        "tiers[0].deployments",
        "tiers[0].nam",
        "tiers[0].name",
    ]


@pytest.mark.parametrize(
    "line",
    [
        'api_key = "sk-verysecret"',
        'api-key = "sk-verysecret"',
        'api_token = "sk-verysecret"',
        'api_key_env = "sk-verysecret"',
        'api_key_env = ["OPENAI_API_KEY", "AIzaverysecret"]',
        'base_url = "https://user:verysecret@host/v1"',
        'base_url = "https://host/v1?api_key=verysecret"',
        'base_url = "https://host/v1?x=1&Access-Token=verysecret"',
        'openai_api_key = "verysecret"',
        'client_secret = "verysecret"',
        'organization = ["verysecret"]',
        'stream_usage = "verysecret"',
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(write, line):
    message = refusal(write(f'[providers.openai]\nkind = "openai"\n{line}\n{MINIMAL}'))
    assert "verysecret" not in message
    assert "providers.openai." in message


@pytest.mark.parametrize(
    "line",
    [
        "price = {input_usd_per_mtok = 'verysecret', output_usd_per_mtok = 1}",
        "params = {temperature = 'verysecret'}",
        "params = {max_tokens = {x = ['verysecret): ']}}",
        "params = {stop = ['verysecret', 1]}",
        "params = {authorization = 'verysecret'}",
        "params = {access_token = 'verysecret'}",
        "params = {client_secret = 'verysecret'}",
        "params = {openai_api_key = 'verysecret'}",
        "params = {extra_headers = {Authorization = 'verysecret'}}",
        "params = {extra_headers = {X-Ours = 'Bearer verysecret'}}",
        "params = {extra_headers = {x-api-key = 'verysecret'}}",
        "params = {extra_body = {deeper = [{api_key = 'verysecret'}]}}",
        "params = {anything = 'sk-verysecret-0123456789'}",
        "drop = ['verysecret', '']",
        "name = 'verysecret'\nparams = {seed = 1.5}",
    ],
)
def test_what_refuses_a_value_does_not_repeat_it(write, line):
    message = refusal(write(MINIMAL + line))
    assert "verysecret" not in message
    assert "tiers[0].deployments[0]" in message


@pytest.mark.parametrize(
    "line",
    [
        "params = {prompt_cache_key = 'abc', max_completion_tokens = 5, stop_token_ids = [1]}",
        "params = {tools = [{properties = {password = {type = 'string'}, token = {type = 'string'}}}]}",
        "params = {user = 'basic plan', logit_bias = {'50256' = -100}}",
    ],
    ids=["names", "schema", "words"],
)
def test_what_only_sounds_like_a_secret_may_stand_there(write, line):
    assert Config.load(write(MINIMAL + line)).tiers[0].deployments[0].params


@pytest.mark.parametrize(
    ("path", "told"),
    [("a\0b", "there is a zero byte in it"), ("digits.toml", "there is a number with too many digits in it")],
    ids=["nul", "digits"],
)
def test_what_python_itself_refuses(tmp_path, monkeypatch, path, told):
    monkeypatch.chdir(tmp_path)
    Path("digits.toml").write_text(f"x = 1{'0' * 5_000}\n{MINIMAL}")
    assert told in refusal(path)


@pytest.mark.parametrize("kind", ["", "directory", "latin-1", "unreadable"])
def test_a_file_that_cannot_be_read(tmp_path, monkeypatch, kind):
    path = tmp_path / "tierllm.toml"
    words = "there is no such file"
    if kind == "directory":
        path.mkdir()
        words = "this is a directory; give the file in it"
    elif kind == "latin-1":
        path.write_bytes("[client]\nsimple_reply = 'Schön'".encode("latin-1"))
        words = "this is not UTF-8 (line 2); save it as UTF-8"
    elif kind == "unreadable":
        path.write_text(MINIMAL)

        def refuse(_):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "read_bytes", refuse)
        words = "cannot be read: Permission denied"
    assert refusal(path).startswith(f"{path}: {words}")


def test_a_byte_order_mark_is_no_problem(tmp_path):
    path = tmp_path / "tierllm.toml"
    path.write_text(MINIMAL, encoding="utf-8-sig")
    assert Config.load(path).tiers[0].name == "gold"


def test_plain_data_of_the_same_shape():
    config = Config.parse({"tiers": [{"name": "only", "deployments": [{"model": "m", "provider": "fake"}]}]})
    assert config.tiers[0].deployments[0].model == "m"
    with pytest.raises(ConfigError, match=r"^the configuration: tiers: is missing$"):
        Config.parse({})
