package main

import (
	"fmt"

	enginediff "github.com/argoproj/argo-cd/gitops-engine/v3/pkg/diff"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/kube"
	"github.com/argoproj/argo-cd/gitops-engine/v3/pkg/utils/tracing"
	"github.com/argoproj/argo-cd/v3/common"
	"github.com/argoproj/argo-cd/v3/util/argo/diff"
	"github.com/argoproj/argo-cd/v3/util/argo/normalizers"
	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	cmdutil "k8s.io/kubectl/pkg/cmd/util"
)

// manager is the field manager of Argo CD's server-side applies.
const manager = common.ArgoCDSSAManager

func connect(asked request) (*rest.Config, *kube.KubectlCmd, error) {
	config, err := clientcmd.BuildConfigFromFlags("", asked.Kubeconfig)
	return config, &kube.KubectlCmd{Log: logr.Discard(), Tracer: tracing.NopTracer{}}, err
}

func syncAll(asked request) ([]result, error) {
	config, kubectl, err := connect(asked)
	if err != nil {
		return nil, err
	}
	operations, cleanup, err := kubectl.ManageResources(config)
	if err != nil {
		return nil, err
	}
	defer cleanup()
	return each(func(asked request, object *unstructured.Unstructured) (result, error) {
		target, err := marked(asked, object)
		if err != nil {
			return result{}, err
		}
		said, err := operations.ApplyResource(
			background, target, cmdutil.DryRunNone, false, true, asked.ServerSide, manager)
		return result{Message: said}, err
	})(asked)
}

// diffAll compares as the application controller does: three-way, or by the API server's own dry run.
func diffAll(asked request) ([]result, error) {
	config, kubectl, err := connect(asked)
	if err != nil {
		return nil, err
	}
	_, parser, err := kubectl.LoadOpenAPISchema(config)
	if err != nil {
		return nil, err
	}
	builder := diff.NewDiffConfigBuilder().
		WithDiffSettings(asked.Ignore, asked.Overrides, true, normalizers.IgnoreNormalizerOpts{}).
		WithTracking(common.LabelKeyAppInstance, string(asked.Tracking)).
		WithNoCache().
		WithGVKParser(parser).
		WithManager(manager).
		WithServerSideDiff(asked.ServerSide)
	if asked.ServerSide {
		applier, cleanup, err := kubectl.ManageServerSideDiffDryRuns(config)
		if err != nil {
			return nil, err
		}
		defer cleanup()
		builder = builder.WithServerSideDryRunner(enginediff.NewK8sServerSideDryRunner(applier))
	}
	settings, err := builder.Build()
	if err != nil {
		return nil, err
	}
	return each(func(asked request, object *unstructured.Unstructured) (result, error) {
		target, err := marked(asked, object)
		if err != nil {
			return result{}, err
		}
		live, err := kubectl.GetResource(
			background, config, object.GroupVersionKind(), object.GetName(), object.GetNamespace())
		if err != nil {
			return result{}, fmt.Errorf("the live object: %w", err)
		}
		found, err := diff.StateDiff(background, live, target, settings)
		if err != nil {
			return result{}, err
		}
		return result{Modified: found.Modified, Live: found.NormalizedLive, Desired: found.PredictedLive}, nil
	})(asked)
}
