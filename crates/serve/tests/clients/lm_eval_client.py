"""lm-eval's local-completions model against a running server: python lm_eval_client.py BASE_URL FOLDER

FOLDER is the model's Hugging Face folder, for its tokenizer: lm-eval sends token ids, with echo,
logprobs = 1 and max_tokens = 1, and reads the probabilities of the continuation.
"""

import json
import sys
import urllib.request

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

base_url, folder = sys.argv[1], sys.argv[2]
lm = LocalCompletionsAPI(
    base_url=f"{base_url}/completions", model="bard", pretrained="bard", tokenizer=folder,
    tokenizer_backend="huggingface", tokenized_requests=True, num_concurrent=4, max_length=256, batch_size=4,
)
pairs = [
    ("ROMEO:\nBut soft, what light through", " yonder window breaks?"),
    ("ROMEO:\nBut soft, what light through", " zebra database integer"),
    ("JULIET:\nO", " Romeo, Romeo!"),
]
requests = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
scores = lm.loglikelihood(requests)
print(scores)
assert all(score < 0 for score, _ in scores)
assert scores[0][0] > scores[1][0], "Shakespeare is more probable than nonsense"
until = [Instance(request_type="generate_until", doc={}, arguments=("ROMEO:\n", {"until": ["\n\n"], "max_gen_toks": 24, "temperature": 0}), idx=0)]
text = lm.generate_until(until)[0]
assert text and "\n\n" not in text, text
# The same sum from the API by hand.
ids = lm.tok_encode(pairs[0][0] + pairs[0][1])
context = len(lm.tok_encode(pairs[0][0]))
body = json.dumps({"model": "bard", "prompt": ids, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0}).encode()
answer = json.load(urllib.request.urlopen(urllib.request.Request(f"{base_url}/completions", body, {"Content-Type": "application/json"})))
total = sum(answer["choices"][0]["logprobs"]["token_logprobs"][context : len(ids)])
assert abs(total - scores[0][0]) < 1e-6, (total, scores[0])
print("passed")
