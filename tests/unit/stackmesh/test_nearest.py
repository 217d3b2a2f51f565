from stackmesh.nearest import hint, nearest


def test_the_nearest_come_first():
    known = ["qwen", "llama-3-8b", "llama-3-70b", "mistral", "LLAMA-3", "gemma", "phi"]
    assert nearest("llama-3-8", known)[:2] == ["llama-3-8b", "llama-3-70b"]
    assert len(nearest("zzz", known)) == 5


def test_the_hint_tells_the_total_and_at_most_five():
    assert hint("a", []) == "there are none"
    assert hint("ab", ["b", "abc"]) == "there are: abc, b"
    assert hint("m1", [f"m{n}" for n in range(100)]).startswith("the nearest of 100: m1, ")


def test_many_names_are_compared_by_their_letters_first():
    known = [f"{n:05}-name" for n in range(20_000)] + ["the-one-we-mean"]
    assert nearest("the-one-we-meant", known)[0] == "the-one-we-mean"
