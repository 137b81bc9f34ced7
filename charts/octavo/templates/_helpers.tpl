{{/* Labels of every object. */}}
{{- define "octavo.labels" -}}
app.kubernetes.io/name: octavo-operator
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* Labels of the pods that selectors use: a Deployment's can't be changed, and services' NetworkPolicies let this one in. */}}
{{- define "octavo.selector" -}}
app.kubernetes.io/name: octavo-operator
{{- end }}

{{/* Image of (root, repository, tag, digest): REGISTRY/REPOSITORY:TAG or @DIGEST. */}}
{{- define "octavo.image" -}}
{{- $root := index . 0 }}
{{- with $root.Values.image.registry }}{{ trimSuffix "/" . }}/{{ end }}{{ index . 1 }}
{{- if index . 3 }}@{{ index . 3 }}{{ else }}:{{ index . 2 | default $root.Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "octavo.operatorImage" -}}
{{- include "octavo.image" (list . .Values.image.repository .Values.image.tag .Values.image.digest) }}
{{- end }}

{{/* Not empty where the metrics API is served: it needs rights in the whole cluster. */}}
{{- define "octavo.metricsApi" -}}
{{- if and .Values.metricsApi.enabled (not .Values.watchNamespaces) }}true{{ end }}
{{- end }}

{{/* Rules of a role in config/rbac, by (root, "KIND/NAME"). */}}
{{- define "octavo.rules" -}}
{{- $rules := (index . 0).Files.Get "files/rules.yaml" | fromYaml }}
{{- required (printf "files/rules.yaml has no %s: run make manifests" (index . 1)) (get $rules (index . 1)) | toYaml }}
{{- end }}

{{- define "octavo.subjects" -}}
- kind: ServiceAccount
  name: {{ .Values.serviceAccount.name }}
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* Whose the CustomResourceDefinition is that is in the cluster and not this release's; asked only under Auto, for who
installs into a namespace of their own may not be allowed to look. */}}
{{- define "octavo.foreignCrd" -}}
{{- $live := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" "llmservices.octavo.dev" }}
{{- if $live }}
{{- $of := $live.metadata.annotations | default dict }}
{{- $name := get $of "meta.helm.sh/release-name" }}
{{- $namespace := get $of "meta.helm.sh/release-namespace" }}
{{- if or (ne $name .Release.Name) (ne $namespace .Release.Namespace) }}
{{- if $name }}the release {{ $namespace }}/{{ $name }}{{ else }}no helm release{{ end }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty where the release has the CustomResourceDefinition. */}}
{{- define "octavo.ownsCrd" -}}
{{- if eq .Values.crds.install "Always" }}true
{{- else if and (eq .Values.crds.install "Auto") (not (include "octavo.foreignCrd" .)) }}true
{{- end }}
{{- end }}

{{/* What Pod Security `restricted` asks of a pod, and of a container. */}}
{{- define "octavo.podSecurity" -}}
runAsNonRoot: true
{{- if not (or (eq .Values.podUser "Assigned") (and (eq .Values.podUser "Auto") (.Capabilities.APIVersions.Has "security.openshift.io/v1"))) }}
runAsUser: 65532
runAsGroup: 65532
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "octavo.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}
