package client

import (
	"slices"

	"github.com/hizo/hizo/api/hizov1"
)

// Methods that change nothing, or nothing that a second call would change again: their outcome may be unknown
// without harm. Whatever is not named here is treated as a mutation.
var reads = []string{
	hizov1.AuthService_Login_FullMethodName, // a lost answer leaves a token that nobody holds
	hizov1.AuthService_LoginCertificate_FullMethodName,
	hizov1.AuthService_LoginSPIFFE_FullMethodName,
	hizov1.AuthService_WhoAmI_FullMethodName,
	hizov1.IssuerService_ListIssuers_FullMethodName,
	hizov1.IssuerService_GetIssuer_FullMethodName,
	hizov1.IssuerService_ListBindings_FullMethodName,
	hizov1.IssuerService_GetBinding_FullMethodName,
	hizov1.IssuerService_TestBinding_FullMethodName,
	hizov1.VaultService_ListVaults_FullMethodName,
	hizov1.SecretService_Reveal_FullMethodName,
	hizov1.SecretService_Inject_FullMethodName,
	hizov1.SecretService_List_FullMethodName,
	hizov1.SecretService_Versions_FullMethodName,
	hizov1.RotationService_List_FullMethodName,
	hizov1.RotationService_Show_FullMethodName,
	hizov1.RotationService_History_FullMethodName,
	hizov1.IdentityService_ListUsers_FullMethodName,
	hizov1.IdentityService_ListRoles_FullMethodName,
	hizov1.IdentityService_ListWorkloads_FullMethodName,
	hizov1.PolicyService_ListPolicies_FullMethodName,
	hizov1.PolicyService_GetPolicy_FullMethodName,
	hizov1.PolicyService_Explain_FullMethodName,
	hizov1.PipelineService_ListPipelines_FullMethodName,
	hizov1.PipelineService_GetPipeline_FullMethodName,
	hizov1.PipelineService_GetPipelineKey_FullMethodName,
	hizov1.PipelineService_Reseal_FullMethodName, // makes another sealed value of the same
	hizov1.AuditService_Tail_FullMethodName,
	hizov1.AuditService_Search_FullMethodName,
	hizov1.AuditService_Export_FullMethodName,
	hizov1.AuditService_Prove_FullMethodName,
	hizov1.AuditService_LatestCheckpoint_FullMethodName,
	hizov1.ClusterService_Status_FullMethodName,
	hizov1.ClusterService_Members_FullMethodName,
	hizov1.WatchService_Watch_FullMethodName,
	hizov1.WatchService_RegisterConsumer_FullMethodName, // says what holds now; said twice it is the same
	hizov1.WatchService_AckConsumer_FullMethodName,
	hizov1.WatchService_LeaveConsumer_FullMethodName,
	hizov1.WatchService_ListConsumers_FullMethodName,
	hizov1.ClusterService_Unseal_FullMethodName, // the same share twice is one share
	hizov1.KeyService_ListKeyRotations_FullMethodName,
	hizov1.KeyService_OperatorShares_FullMethodName,
	hizov1.LeaseService_ListRoles_FullMethodName,
	hizov1.LeaseService_ShowRole_FullMethodName,
	hizov1.LeaseService_Show_FullMethodName,
	hizov1.LeaseService_List_FullMethodName,
	hizov1.LeaseService_ListDead_FullMethodName,
	hizov1.BackupService_ListBackups_FullMethodName,
}

// Methods that are called before there is a token.
var tokenless = []string{
	hizov1.AuthService_Login_FullMethodName,
	hizov1.AuthService_LoginWorkload_FullMethodName,
	hizov1.AuthService_LoginCertificate_FullMethodName,
	hizov1.AuthService_LoginToken_FullMethodName,
	hizov1.AuthService_LoginSPIFFE_FullMethodName,
	hizov1.AuthService_Enrol_FullMethodName,
	hizov1.ClusterService_Init_FullMethodName,
	hizov1.ClusterService_Unseal_FullMethodName,
}

// tokenOptional reports whether a call is sent without a token where there is none: status shows more with one.
func tokenOptional(method string) bool { return method == hizov1.ClusterService_Status_FullMethodName }

func isMutation(method string) bool { return !slices.Contains(reads, method) }

// sentOnce are methods whose answer can't be given a second time, so that a repetition could only hide it.
func sentOnce(method string) bool { return method == hizov1.ClusterService_Init_FullMethodName }

func needsToken(method string) bool { return !slices.Contains(tokenless, method) }

// anywhere are calls that any node takes.
func anywhere(method string) bool { return method == hizov1.WatchService_Watch_FullMethodName }
