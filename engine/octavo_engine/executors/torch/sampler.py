"""From hidden rows to tokens and log-probabilities, one request after the other.

Owns which rows are turned into logits and when; the numbers are `kernels.reference_sampling`'s. A request that
can't be sampled gets an error of its own.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from octavo_engine.core.outputs import SchedulerOutput, StepOutput
from octavo_engine.executors.torch.input_batch import InputBatch, RequestStates
from octavo_engine.kernels.reference_sampling import process_logits, sample, token_logprobs
from octavo_engine.messages import TokenLogprob

PROMPT_ROWS = 64  # a large vocabulary's logits of a whole prompt would take gigabytes


def _logprob(logits: Tensor, token: int, num_top: int) -> TokenLogprob:
    logprob, rank, top = token_logprobs(logits, token, num_top)
    return TokenLogprob(token_id=token, logprob=logprob, rank=rank, top=top)


def sample_step(
    step: SchedulerOutput,
    batch: InputBatch,
    hidden: Tensor,
    states: RequestStates,
    logits_of: Callable[[Tensor], Tensor],
) -> StepOutput:
    """Draw for `step.samples`, and score the prompt positions that are wanted.

    hidden: [num_tokens, hidden_size], normed; `logits_of`: [n, hidden_size] -> [n, vocab]. Drawn tokens are appended
    to the requests' states.
    """
    out = StepOutput(step_id=step.step_id, tokens={})
    out.errors.update({r: e for r in step.num_scheduled_tokens if (e := states.states[r].error) is not None})
    last_rows = [batch.query_starts[i + 1] - 1 for i, r in enumerate(batch.request_ids) if r in step.samples]
    drawing = [r for r in batch.request_ids if r in step.samples]
    last_logits = logits_of(hidden[last_rows]) if drawing else hidden
    for i, request_id in enumerate(batch.request_ids):
        wanted = step.logits_wanted.get(request_id, 0)
        if wanted and states.states[request_id].sampling.prompt_logprobs is not None:
            end = batch.query_starts[i + 1]
            scored = _score_prompt(hidden[end - wanted : end], batch.seq_lens[i], request_id, states, logits_of)
            if scored:
                out.prompt_logprobs[request_id] = scored
    for row, request_id in enumerate(drawing):
        state = states.states[request_id]
        params, known = state.sampling, state.token_ids
        logits = last_logits[row]
        try:
            processed = process_logits(
                logits, known[: state.num_prompt_tokens], known[state.num_prompt_tokens :], params
            )
            token = sample(processed, params, position=len(known))
        except ValueError as error:
            state.error = str(error)
            out.errors[request_id] = str(error)
            continue
        if params.logprobs is not None:
            out.logprobs[request_id] = [_logprob(logits, token, params.logprobs)]
        known.append(token)
        out.tokens[request_id] = [token]
    return out


def _score_prompt(
    hidden: Tensor,
    seq_len: int,
    request_id: str,
    states: RequestStates,
    logits_of: Callable[[Tensor], Tensor],
) -> list[TokenLogprob]:
    """The log-probability of the prompt's next token at each row of `hidden`, the last rows of `seq_len` tokens."""
    state = states.states[request_id]
    first = seq_len - hidden.shape[0]
    end = min(seq_len, state.num_prompt_tokens - 1)  # the last prompt token has no successor in the prompt
    scored = []
    for start in range(first, end, PROMPT_ROWS):
        rows = range(start, min(start + PROMPT_ROWS, end))
        logits = logits_of(hidden[start - first : rows.stop - first])
        num_top = state.sampling.prompt_logprobs or 0
        scored += [_logprob(logits[p - start], state.token_ids[p + 1], num_top) for p in rows]
    return scored
