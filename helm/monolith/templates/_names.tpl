{{/* Names and labels of the objects. The components are "joiner", "trainer", "serving", and those of "monolith.optional". */}}

{{/* Optional components that are enabled, as a JSON list. Each runs once. */}}
{{- define "monolith.optional" -}}
{{- $enabled := list -}}
{{- range $component := list "archiver" "guard" "shadow" -}}
{{- if (get $.Values $component).enabled -}}
{{- $enabled = append $enabled $component -}}
{{- end -}}
{{- end -}}
{{- toJson $enabled -}}
{{- end -}}

{{- define "monolith.name" -}}
{{- .Values.nameOverride | default .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Prefix of all names: at most 44 characters, to leave room for the longest suffix and the hash of a StatefulSet within 63. */}}
{{- define "monolith.fullname" -}}
{{- $name := include "monolith.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- .Values.fullnameOverride | default $full | trunc 44 | trimSuffix "-" -}}
{{- end -}}

{{- define "monolith.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/name: {{ include "monolith.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels that select the pods of a component: (dict "root" $ "component" "joiner"). */}}
{{- define "monolith.selector" -}}
app.kubernetes.io/name: {{ include "monolith.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "monolith.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "monolith.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Name of the StatefulSet and the Service of a process that runs once. "archive" leaves room within 63 characters. */}}
{{- define "monolith.singleName" -}}
{{- printf "%s-%s" (include "monolith.fullname" .root) (ternary "archive" .component (eq .component "archiver")) -}}
{{- end -}}

{{- define "monolith.claimName" -}}
{{- .Values.checkpoints.existingClaim | default (printf "%s-checkpoints" (include "monolith.fullname" .)) -}}
{{- end -}}
