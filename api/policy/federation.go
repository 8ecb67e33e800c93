package policy

// Actions on issuers of workload identities and on bindings of their claims: on the System.
const (
	IssuerPut     Action = "issuer.put"
	IssuerList    Action = "issuer.list"
	IssuerGet     Action = "issuer.get"
	IssuerDelete  Action = "issuer.delete"
	BindingPut    Action = "binding.put"
	BindingList   Action = "binding.list"
	BindingGet    Action = "binding.get"
	BindingDelete Action = "binding.delete"
	BindingTest   Action = "binding.test"
)

func federationActions() []Action {
	return []Action{
		IssuerPut, IssuerList, IssuerGet, IssuerDelete, BindingPut, BindingList, BindingGet, BindingDelete, BindingTest,
	}
}
