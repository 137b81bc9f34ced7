// Command argocd answers what Argo CD and Flux make of objects, by their own code: one JSON request on standard input,
// one JSON answer on standard output.
//
//	health       Argo CD's health of each object, with the scripts of argocd-cm
//	kstatus      the status by which Flux waits
//	expressions  the status by which Flux waits where a Kustomization has healthCheckExprs
//	tracked      the Application to which each object belongs, by Argo CD's method of tracking
//	sync         applies each object as a sync does                         (needs a kubeconfig)
//	diff         what is out of sync between each object and its live twin  (needs a kubeconfig)
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/health"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/pkg/apis/application/v1alpha1"
	"github.com/argoproj/argo-cd/v3/util/argo"
	"github.com/argoproj/argo-cd/v3/util/lua"
	"github.com/fluxcd/pkg/apis/kustomize"
	"github.com/fluxcd/pkg/runtime/cel"
	"github.com/sirupsen/logrus"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

// request is what a test asks for. Overrides are argocd-cm's resource.customizations, by group/Kind.
type request struct {
	Verb        string                               `json:"verb"`
	Objects     []*unstructured.Unstructured         `json:"objects"`
	Overrides   map[string]v1alpha1.ResourceOverride `json:"overrides"`
	Expressions kustomize.HealthCheckExpressions     `json:"expressions"`
	Ignore      []v1alpha1.ResourceIgnoreDifferences `json:"ignore"`
	Tracking    v1alpha1.TrackingMethod              `json:"tracking"`
	App         string                               `json:"app"`
	Kubeconfig  string                               `json:"kubeconfig"`
	ServerSide  bool                                 `json:"serverSide"`
}

// result is said of one object; which fields it has depends on the verb.
type result struct {
	Status   string          `json:"status,omitempty"`
	Message  string          `json:"message,omitempty"`
	App      string          `json:"app,omitempty"`
	Modified bool            `json:"modified,omitempty"`
	Live     json.RawMessage `json:"live,omitempty"`
	Desired  json.RawMessage `json:"desired,omitempty"`
}

func main() {
	logrus.SetOutput(os.Stderr)
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	var asked request
	if err := json.NewDecoder(in).Decode(&asked); err != nil {
		return fmt.Errorf("the request can't be read: %w", err)
	}
	verbs := map[string]func(request) ([]result, error){
		"health":      each(healthOf),
		"kstatus":     each(kstatusOf),
		"expressions": each(expressionsOf),
		"tracked":     each(appOf),
		"sync":        syncAll,
		"diff":        diffAll,
	}
	verb, known := verbs[asked.Verb]
	if !known {
		return errors.New("no such verb: " + asked.Verb)
	}
	results, err := verb(asked)
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(results)
}

// each answers for one object after the other.
func each(one func(request, *unstructured.Unstructured) (result, error)) func(request) ([]result, error) {
	return func(asked request) ([]result, error) {
		results := make([]result, 0, len(asked.Objects))
		for _, object := range asked.Objects {
			answer, err := one(asked, object)
			if err != nil {
				return nil, fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
			}
			results = append(results, answer)
		}
		return results, nil
	}
}

// healthOf is what the application controller shows; an object without a script has none.
func healthOf(asked request, object *unstructured.Unstructured) (result, error) {
	found, err := health.GetResourceHealth(object, lua.ResourceHealthOverrides(asked.Overrides))
	if err != nil || found == nil {
		return result{}, err
	}
	return result{Status: string(found.Status), Message: found.Message}, nil
}

func kstatusOf(_ request, object *unstructured.Unstructured) (result, error) {
	found, err := status.Compute(object)
	if err != nil {
		return result{}, err
	}
	return result{Status: string(found.Status), Message: found.Message}, nil
}

func expressionsOf(asked request, object *unstructured.Unstructured) (result, error) {
	evaluator, err := cel.NewStatusEvaluator(&asked.Expressions)
	if err != nil {
		return result{}, err
	}
	found, err := evaluator.Evaluate(background, object)
	if err != nil {
		return result{}, err
	}
	return result{Status: string(found.Status)}, nil
}

func appOf(asked request, object *unstructured.Unstructured) (result, error) {
	app := argo.NewResourceTracking().GetAppName(object, common.LabelKeyAppInstance, asked.Tracking, "")
	return result{App: app}, nil
}

// marked is the object as a sync applies it, with the mark by which Argo CD knows it again.
func marked(asked request, object *unstructured.Unstructured) (*unstructured.Unstructured, error) {
	copied := object.DeepCopy()
	err := argo.NewResourceTracking().SetAppInstance(
		copied, common.LabelKeyAppInstance, asked.App, object.GetNamespace(), asked.Tracking, "")
	return copied, err
}

var background = context.Background()
