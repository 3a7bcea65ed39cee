"""Ray's own ports: only programs with a token are let in, and the user is told which are open."""

from wkv.serve.ray_cluster import ports_notice, require_token

NODE = {"NodeManagerPort": 41451, "MetricsAgentPort": 44095, "NodeName": "x", "OtherPort": None}


def test_a_token_is_created_for_its_owner_only(tmp_path):
    environment, path = {}, tmp_path / ".ray" / "auth_token"
    assert require_token(environment, tmp_path)
    token = path.read_text()
    assert environment == {"RAY_AUTH_MODE": "token"}
    assert len(token) == 64
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o644)  # as Ray creates it
    assert require_token(environment, tmp_path)
    assert path.read_text() == token
    assert path.stat().st_mode & 0o777 == 0o600
    require_token({}, tmp_path / "other")
    assert (tmp_path / "other" / ".ray" / "auth_token").read_text() != token


def test_settings_of_the_user_are_kept(tmp_path):
    for given in ({"RAY_AUTH_TOKEN": "a" * 64}, {"RAY_AUTH_TOKEN_PATH": "/somewhere"}):
        environment = dict(given)
        assert require_token(environment, tmp_path)
        assert environment == given | {"RAY_AUTH_MODE": "token"}
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "a"}
    assert not require_token(environment, tmp_path)
    assert environment["RAY_AUTH_MODE"] == "disabled"
    assert not list(tmp_path.iterdir())


def test_the_notice_lists_the_ports_and_says_who_can_use_them():
    text = ports_notice(["37413"], NODE, True)
    assert "37413, 41451, 44095" in text
    assert "only programs with its token" in text
    assert "everybody" in ports_notice([], NODE, False)
