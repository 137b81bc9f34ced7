"""Chat templates in the shapes that published models use."""

from __future__ import annotations

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

# The system message goes into the first user turn, and turns must alternate.
INSTRUCTION_BRACKETS = """
{%- if messages[0].role == 'system' -%}
    {%- set system = messages[0].content -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set system = none -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 % 2 == 0) -%}
        {{- raise_exception('user and assistant must take turns') -}}
    {%- endif -%}
    {%- if loop.first and system -%}
        {%- set text = '<<SYS>>\n' ~ system ~ '\n<</SYS>>\n\n' ~ turn.content -%}
    {%- else -%}
        {%- set text = turn.content -%}
    {%- endif -%}
    {%- if turn.role == 'user' -%}
        {{- bos_token ~ '[INST] ' ~ text.strip() ~ ' [/INST]' -}}
    {%- else -%}
        {{- ' ' ~ text | trim ~ ' ' ~ eos_token -}}
    {%- endif -%}
{%- endfor -%}
"""

# Blocks on lines of their own: trim_blocks and lstrip_blocks decide what is left of the lines.
HEADERS = """{{ bos_token }}
{% if not date is defined %}
    {% set date = strftime_now('%Y') | length %}
{% endif %}
<|start_header_id|>system<|end_header_id|>

Digits of a year: {{ date }}
    {% if tools %}
You have these tools: {% for tool in tools %}
        {{ tool | tojson(indent=2) }}
    {% endfor %}
{% endif %}
{% for message in messages %}
    {# a comment #}
<|start_header_id|>{{ message.role }}<|end_header_id|>

{{ message.content | trim }}<|eot_id|>
{% endfor %}
{% if add_generation_prompt %}
<|start_header_id|>assistant<|end_header_id|>

{% endif %}
"""

# Tools, calls of them, their results, and what the model thought.
TOOLS = """
{%- macro describe(tool) -%}
    {{- tool.function.name }}({{ tool.function.parameters.properties | dictsort | map('first') | join(', ') }})
{%- endmacro -%}
{%- set ns = namespace(calls=0, last=-1) -%}
{%- for message in messages -%}
    {%- if message.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- if tools -%}
    {{- '<tools>\n' -}}
    {%- for tool in tools -%}{{- describe(tool) ~ ' ' ~ (tool | tojson) ~ '\n' -}}{%- endfor -%}
    {{- '</tools>\n' -}}
{%- endif -%}
{%- for document in documents or [] -%}{{- document.title ~ ': ' ~ document.text ~ '\n' -}}{%- endfor -%}
{%- for message in messages -%}
    {%- if message.role == 'comment' -%}{%- continue -%}{%- endif -%}
    {{- message.role ~ ': ' -}}
    {%- if message.reasoning_content is defined and loop.index0 > ns.last -%}
        {{- '<think>' ~ message.reasoning_content ~ '</think>' -}}
    {%- endif -%}
    {{- message.content if message.content -}}
    {%- for call in message.tool_calls or [] -%}
        {%- set ns.calls = ns.calls + 1 -%}
        {{- '<call ' ~ ns.calls ~ '>' ~ call.function.name ~ ' ' ~ (call.function.arguments | tojson) ~ '</call>' -}}
    {%- endfor -%}
    {{- '\n' -}}
    {%- if ns.calls > 3 -%}{{- '(too many calls)' -}}{%- break -%}{%- endif -%}
{%- endfor -%}
{{- 'thinking ' ~ ('on' if enable_thinking is not defined or enable_thinking else 'off') ~ '\n' -}}
{%- if add_generation_prompt -%}{{- 'assistant: ' -}}{%- endif -%}
"""

PARTS = """
{%- for message in messages -%}
    {{- '<' ~ message['role'] ~ '>' -}}
    {%- if message['content'] is string -%}
        {{- message['content'] -}}
    {%- else -%}
        {%- for part in message['content'] -%}
            {%- if part['type'] == 'text' -%}{{- part['text'] | trim -}}{%- else -%}[{{ part['type'] }}]{%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '\n' -}}
{%- endfor -%}
"""

GENERATION = (
    "{% for message in messages %}\n{% if message.role == 'assistant' %}\n{% generation %}\n{{ message.content }}"
    "{{ eos_token }}\n{% endgeneration %}\n{% else %}\n{{ message.content }}\n{% endif %}\n{% endfor %}\n"
)

ALL = {
    "chatml": CHATML,
    "instruction-brackets": INSTRUCTION_BRACKETS,
    "headers": HEADERS,
    "tools": TOOLS,
    "parts": PARTS,
    "generation": GENERATION,
}

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": 'Wetter für <eine> Stadt & "Ort"',
        "parameters": {"type": "object", "properties": {"unit": {"type": "string"}, "city": {"type": "string"}}},
    },
}
