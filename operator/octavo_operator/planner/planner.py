"""`plan(service, observed, settings) -> Plan`: pure, and it explains itself.

Each part is decided in a module of its own; here is only their order.
"""

from __future__ import annotations

from dataclasses import replace

from octavo_models import ModelSpec
from octavo_operator.api.observed import Observed
from octavo_operator.api.reasons import FitReason, SpecReason
from octavo_operator.api.refusal import Refusal
from octavo_operator.api.uri import SCHEMES
from octavo_operator.api.v1alpha1 import IGNORE_FIT, LLMService
from octavo_operator.planner import (
    arguments,
    engine_flags,
    features,
    given_flags,
    gpus,
    hardware,
    images,
    lifecycle,
    memory,
    rollout,
    storage,
    tls,
    warnings,
)
from octavo_operator.planner.children import children_of
from octavo_operator.planner.demand import Demand, kv_bytes_on_cpu, kv_format
from octavo_operator.planner.plan import (
    ContainerResources,
    EngineProcess,
    Fit,
    Hardware,
    Limits,
    Marks,
    NetworkPlan,
    Plan,
    PodPlan,
    Scale,
)
from octavo_operator.planner.sizes import human
from octavo_operator.runtimes import OCTAVO, RUNTIMES, runtime_of
from octavo_operator.runtimes.runtime import Runtime
from octavo_operator.settings import Settings


def plan(service: LLMService, observed: Observed, settings: Settings) -> Plan:
    """Plan a service. Never raises for the content of a manifest: a refusal is part of the plan."""
    spec, engine = service.spec, service.spec.engine
    place = hardware.hardware_of(spec)
    awake = _scale(service)
    scale = Scale(0, 0, 0, None) if spec.suspend else awake
    given_memory = hardware.memory_limit(spec.resources)
    limits, demand, fit = _fitted(service, observed, place, given_memory)
    fit = features.judged(fit, service, observed, place, settings)
    fit, refusal = _verdict(service, observed, fit, limits, place, settings)

    model_bytes = observed.model_bytes if observed.model is None else observed.model.weight_bytes()
    cache = storage.plan_cache(service.metadata.name, spec.cache, model_bytes, awake, observed)
    if cache is not None and spec.model.uri.scheme not in storage.FETCHED:
        cache = replace(cache, preload=False)
    narrow = storage.narrow_modes(service, cache, observed)
    rolls = rollout.choose(spec.rollout.strategy, place, observed, awake, narrow)
    downloads = spec.model.uri.scheme in storage.FETCHED and (cache is None or not cache.preload)
    startup = lifecycle.expected_startup(model_bytes, downloads=downloads, hardware=place, settings=settings)
    longest = lifecycle.longest_generation(limits.max_model_len, place, settings)
    wanted = spec.rollout.drain_timeout
    drain = lifecycle.drain_time(longest, None if wanted is None else float(wanted.seconds), settings)

    ends = lifecycle.lifecycle(startup, drain, runtime_of(engine))

    needed = None
    if not place.gpus and demand is not None and limits.kv_cache_bytes is not None:
        needed = demand.weights(1) + demand.overhead(1) + limits.kv_cache_bytes
    downloaded = model_bytes if downloads and cache is None else None
    resources = hardware.container_resources(spec, place, needed, downloaded, limits)
    shm = int(hardware.shared_memory(spec, place))
    limit = int(spec.resources.limits["memory"]) if "memory" in spec.resources.limits else None
    case = warnings.CheckInput(
        service, demand, model_bytes, fit, place, scale, cache, rolls, drain, ends.grace, longest, shm, limit
    )
    known_runtime = engine.runtime in RUNTIMES
    line = arguments.arguments(service, limits, place, drain) if known_runtime else ()
    version = engine_flags.version_of(engine, place, settings)
    return Plan(
        name=service.metadata.name,
        namespace=service.metadata.namespace,
        model_uri=str(spec.model.uri),
        model_summary=summary(service, observed.model, observed.model_bytes),
        served_names=arguments.served_names(service),
        fit=fit,
        refusal=refusal,
        limits=limits,
        engine=EngineProcess(
            runtime=engine.runtime,
            image=images.image_of(engine, place, settings),
            model=arguments.model_argument(spec.model.uri),
            chat_template=engine_flags.template_argument(spec.model.chat_template, version),
            arguments=(*engine_flags.known(line, version), *engine.args) if known_runtime else (),
            env=arguments.environment(service, cache, settings) if known_runtime else (),
            port=arguments.PORT,
            tls=tls.tls_of(engine) if known_runtime else None,
        ),
        hardware=place,
        resources=resources,
        cache=cache,
        lifecycle=ends,
        rollout=rolls,
        scale=scale,
        service_type=spec.service.type,
        service_port=spec.service.port,
        children=()
        if refusal is not None
        else children_of(service, place, scale, rolls, cache, service_monitor=observed.service_monitors is True),
        reasons=_reasons(service, observed, limits, resources, startup, drain, longest, downloads=downloads),
        warnings=(
            *warnings.warnings(case),
            *engine_flags.warnings(line, version),
            *engine_flags.template_warnings(spec.model.chat_template, version),
        ),
        uid=service.metadata.uid,
        suspended=spec.suspend,
        pod=_pod(service, tuple(narrow), settings),
        network=NetworkPlan(
            tuple(spec.network_policy.allow_from), settings.operator_namespace, spec.monitoring.namespace
        )
        if spec.network_policy.enabled
        else None,
        service_marks=Marks(spec.service.labels, spec.service.annotations),
        monitor_marks=Marks(spec.monitoring.labels, spec.monitoring.annotations),
        preload_image=_preload_image(service, place, settings),
    )


def summary(service: LLMService, spec: ModelSpec | None, size: int | None = None) -> str:
    """The model in one line: name, layers, heads, type."""
    uri = service.spec.model.uri
    name = uri.rest.rstrip("/").rpartition("/")[2] or uri.rest
    if spec is None:
        return name if size is None else f"{name}, {human(size)}"
    attention = spec.layers[0].attention
    stored = spec.quantization or spec.dtype
    if service.spec.engine.dtype not in {"auto", spec.dtype}:
        stored += f" as {service.spec.engine.dtype}"
    kv = f"/ {attention.num_kv_heads} KV heads"
    if attention.latent is not None:
        kv = f"over a latent of {attention.latent.rank}"
    return f"{name}, {len(spec.layers)} layers, {attention.num_heads} heads {kv}, {stored}"


def _fitted(
    service: LLMService, observed: Observed, place: Hardware, given_memory: int | None
) -> tuple[Limits, Demand | None, Fit]:
    """Limits and verdict. A length that the manifest leaves open is as long as what fits, as the engine would have it."""
    engine, spec = service.spec.engine, observed.model
    found = gpus.candidates(place, observed.nodes)

    def judged(limits: Limits) -> tuple[Limits, Demand | None, Fit]:
        demand = None if spec is None else Demand(spec, engine, limits, on_gpu=bool(place.gpus))
        if place.gpus:
            fit = memory.fit_on_gpus(demand, observed.model_bytes, engine, place, found, observed.why_unknown)
            return limits, demand, fit
        if demand is not None:
            limits = replace(limits, request_bytes=demand.request_reserve(given_memory))
            demand = replace(demand, limits=limits)
        limits = replace(limits, kv_cache_bytes=kv_bytes_on_cpu(demand, given_memory))
        demand = None if demand is None else replace(demand, limits=limits)
        return limits, demand, memory.fit_in_memory(demand, observed.model_bytes, given_memory, observed.why_unknown)

    limits, demand, fit = judged(_limits(service, spec, place))
    if demand is None or fit.budget is None or fit.state == "True" or engine.max_model_len is not None:
        return limits, demand, fit
    length = memory.longest(demand, fit.budget, engine.tensor_parallel_size)
    return (
        (limits, demand, fit)
        if length is None
        else judged(replace(limits, max_model_len=length, request_bytes=0, shortened=True))
    )


def _limits(service: LLMService, spec: ModelSpec | None, place: Hardware) -> Limits:
    engine = service.spec.engine
    seqs = engine.max_num_seqs or (256 if place.gpus else 128)
    tokens = engine.max_num_batched_tokens or max(8192 if place.gpus else 2048, seqs)
    if engine.max_num_seqs is None:
        seqs = min(seqs, tokens)
    length = engine.max_model_len or (None if spec is None else spec.max_position)
    if spec is not None and spec.pooling is not None:
        tokens = max(tokens, length or 0)  # a prompt that is pooled is computed whole
    return Limits(length, seqs, tokens, kv_format(engine, spec, on_gpu=bool(place.gpus)), None)


def _verdict(
    service: LLMService, observed: Observed, fit: Fit, limits: Limits, place: Hardware, settings: Settings
) -> tuple[Fit, Refusal | None]:
    """A refusal where nothing could run; a bad fit is one unless the annotation overrides it or it runs already."""
    engine, uri = service.spec.engine, service.spec.model.uri
    if engine.runtime not in RUNTIMES:
        known = " or ".join(RUNTIMES)
        message = f"engine.runtime {engine.runtime} is not run by this version"
        return fit, Refusal(SpecReason.RUNTIME, message, f"set engine.runtime: {known}")
    if uri.scheme not in RUNTIMES[engine.runtime].schemes:
        return fit, _scheme_not_supported(uri.scheme, RUNTIMES[engine.runtime])
    refused = RUNTIMES[engine.runtime].refusal(engine, observed.model, on_gpu=bool(place.gpus))
    template = service.spec.model.chat_template
    refused = refused or RUNTIMES[engine.runtime].template_refusal(None if template is None else template.name)
    refused = refused or given_flags.refusal(engine) or tls.refusal(engine) or images.refusal(engine, place, settings)
    if refused is not None:
        return fit, refused
    if observed.model is not None and (limits.max_model_len or 0) > observed.model.max_position:
        own = observed.model.max_position
        message = f"engine.maxModelLen {limits.max_model_len} is more than the {own} tokens the model was made for"
        return fit, Refusal(SpecReason.MODEL_TOO_SHORT, message, f"set engine.maxModelLen: {own}, or leave it out")
    if fit.state != "False":
        return fit, None
    if service.metadata.annotations.get(IGNORE_FIT) == "true":
        return replace(fit, reason=FitReason.OVERRIDDEN, message=f"{fit.message} ({IGNORE_FIT} overrides it)"), None
    if observed.serving:
        return replace(fit, reason=FitReason.ALREADY_SERVING, message=f"{fit.message}; what runs already is kept"), None
    remedy = fit.remedy or f"annotate it with {IGNORE_FIT}: true to try anyway"
    return fit, Refusal(fit.reason, fit.message, remedy)


def _scheme_not_supported(scheme: str, runtime: Runtime) -> Refusal:
    known = ", ".join(f"{each}://" for each in SCHEMES if each in runtime.schemes)
    if scheme in OCTAVO.schemes:
        message = f"engine.runtime {runtime.name} cannot load {scheme}://"
        return Refusal(SpecReason.SCHEME, message, f"use one of {known}, or set engine.runtime: {OCTAVO.name}")
    return Refusal(SpecReason.SCHEME, f"{scheme}:// is not fetched by this version", f"use one of {known}")


def _scale(service: LLMService) -> Scale:
    spec = service.spec
    auto = spec.autoscaling
    if auto is None:
        return Scale(spec.replicas, spec.replicas, spec.replicas, None)
    return Scale(
        None,
        auto.min_replicas,
        auto.max_replicas,
        auto.target_queue_depth,
        tuple(auto.metrics),
        auto.behavior or None,
    )


def _pod(service: LLMService, exclusive: tuple[str, ...], settings: Settings) -> PodPlan:
    spec = service.spec
    image, template, keys = spec.engine.image, spec.model.chat_template, spec.auth.api_keys
    return PodPlan(
        pull_policy=None if image is None else image.pull_policy,
        pull_secrets=() if image is None else tuple(image.pull_secrets),
        chat_template=None if template is None else template.config_map,
        api_keys=(keys.secret_name, keys.key) if keys and arguments.mounts_keys(service) else None,
        model_claim=storage.model_claim(service),
        assigned_user=settings.assigned_users,
        exclusive=exclusive,
        template=dict(spec.pod_template),
    )


def _preload_image(service: LLMService, place: Hardware, settings: Settings) -> str:
    """The image that downloads the model, for any runtime: the small one, unless the manifest names one of octavo's."""
    engine = service.spec.engine
    if runtime_of(engine).runs_download and engine.image is not None:
        return images.image_of(engine, place, settings)
    return settings.images["octavo"]


def _reasons(
    service: LLMService,
    observed: Observed,
    limits: Limits,
    resources: ContainerResources,
    startup: int,
    drain: int,
    longest: int,
    *,
    downloads: bool,
) -> tuple[str, ...]:
    """The sentences on what was decided for the manifest, and by what."""
    spec, reasons = service.spec, []
    if limits.shortened:
        assert observed.model is not None
        reasons.append(
            f"maxModelLen {limits.max_model_len}: what the memory holds; the model's own is "
            f"{observed.model.max_position}"
        )
    elif spec.engine.max_model_len is None and limits.max_model_len is not None:
        reasons.append(f"maxModelLen {limits.max_model_len}: the model's own")
    if (asked := hardware.requests_in_words(spec, resources)) is not None:
        reasons.append(asked)
    size = "its size unknown" if observed.model is None and observed.model_bytes is None else "the model's size"
    fetch = ", download included" if downloads else ""
    verb = "is expected to take" if runtime_of(spec.engine).watches_start else "may take"
    reasons.append(f"a replica {verb} {startup} s to start: {size}{fetch}")
    if spec.rollout.drain_timeout is not None:
        reasons.append(f"a replica that ends drains for {drain} s: rollout.drainTimeout")
    else:
        bound = "the longest admissible answer" if drain == longest else f"the longest answer may take {longest} s"
        reasons.append(f"a replica that ends drains for {drain} s: {bound}")
    if spec.suspend:
        reasons.append("suspended: no replica runs, everything else stays")
    return tuple(reasons)
