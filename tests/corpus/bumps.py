# Makes two generations of version bumps of what spec.py chose into FOLDER/spec and FOLDER/pkgs.json: FOLDER/old and FOLDER/new
# hold the same, where each package of which this machine's apt knows two versions is the older, the newer one, from its .deb.
# usage: bumps.py FOLDER
import json, os, re, subprocess, sys
base=os.path.abspath(sys.argv[1])
pkgs=json.load(open(base+'/pkgs.json'))
said=subprocess.run(['apt-cache','madison']+[p['name'] for p in pkgs],capture_output=True,text=True,check=True).stdout
versions={}
for line in said.splitlines():
    name,version,where=[x.strip() for x in line.split('|')]
    if 'Sources' not in where: versions.setdefault(name,[]).append(version)
two={n:{'old':v[-1],'new':v[0]} for n,v in versions.items() if v[0]!=v[-1]}
# apt lists the newest first, but for what it prefers: the package manager knows the order.
for name,v in two.items():
    if subprocess.run(['dpkg','--compare-versions',v['old'],'gt',v['new']]).returncode==0: v['old'],v['new']=v['new'],v['old']
def files(root):
    found=[]
    for folder,folders,names in os.walk(root):
        folders.sort()
        for f in sorted(names+[d for d in folders if os.path.islink(os.path.join(folder,d))]):
            path=os.path.join(folder,f)
            if '/usr/share/doc/' not in path: found.append(path[len(root):])
    seen=set(); kept=[]
    for f in found:
        n=f[4:] if f.startswith('/usr/') else f
        if n not in seen: seen.add(n); kept.append(f)
    return kept
for which in ('old','new'):
    here=base+'/'+which
    os.makedirs(here+'/spec',exist_ok=True); os.makedirs(here+'/root',exist_ok=True); os.makedirs(base+'/deb',exist_ok=True)
    made=[]
    for p in pkgs:
        name=p['name']; spec=here+'/spec/%s.json'%name
        if name in two:
            version=two[name][which]; root=here+'/root/'+name
            if not os.path.isdir(root):
                for f in os.listdir(base+'/deb'): os.remove(base+'/deb/'+f)
                subprocess.run(['apt-get','-qq','download','%s=%s'%(name,version)],cwd=base+'/deb',check=True)
                [deb]=os.listdir(base+'/deb')
                subprocess.run(['dpkg-deb','-x',base+'/deb/'+deb,root],check=True)
            json.dump(files(root),open(spec,'w'))
            p=dict(p,root=root,version=re.sub(r'[^0-9A-Za-z.+-]','-',version))
        else:
            json.dump(json.load(open(base+'/spec/%s.json'%name)),open(spec,'w'))
        made.append(p)
    json.dump(made,open(here+'/pkgs.json','w'))
print(len(two),'of',len(pkgs),'packages in two versions',file=sys.stderr)
